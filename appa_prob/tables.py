r"""Tables in CSV and parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import UserError

__all__ = ["check_places", "read_table"]


def read_table(path: str | Path, what: str, texts: Sequence[str] = ()) -> pd.DataFrame:
    r"""Reads a table.

    Arguments:
        path: A parquet file, by its suffix, or a CSV file with a header.
        what: What its rows are, for the messages of errors.
        texts: The columns that are texts in parquet files; in CSV files all are.

    Raises:
        UserError: If the file can't be read, or has no rows.
    """
    table = _parquet(path, what, texts) if Path(path).suffix == ".parquet" else _csv(path, what)
    if table.empty:
        raise UserError(f"{path} has no {what}")
    return table


def _csv(path: str | Path, what: str) -> pd.DataFrame:
    try:
        # As texts first: a country may be called "NA".
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a CSV file of {what}") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} can't be read as CSV: {str(error).strip()}") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the surplus for an index
        raise UserError(f"{path} can't be read as CSV: rows have more values than the header")
    return table


def _parquet(path: str | Path, what: str, texts: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise UserError(f"{path}: parquet files need pyarrow: pip install pyarrow") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a parquet file of {what}") from None
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"{path} can't be read as parquet: {str(error).strip()}") from None
    present = table.columns.intersection(list(texts))
    return table.astype({name: object for name in present}).fillna({name: "" for name in present})


def check_places(table: pd.DataFrame, path: str | Path, what: str, name: str) -> None:
    r"""Checks that the rows of a table have places on the globe.

    Arguments:
        table: The table, with numbers in its columns `latitude` and `longitude`.
        path: Its file, for the message of the error.
        what: What its rows are, for that as well.
        name: The column that names a row.

    Raises:
        UserError: If one has none.
    """
    for column, bound in (("latitude", 90.0), ("longitude", 360.0)):
        bad = np.flatnonzero(~(table[column].abs() <= bound))
        if len(bad):
            raise UserError(
                f"{path}: expected a {column} in degrees, from {-bound:g} to {bound:g}, for each "
                f"{what}; {len(bad)} have none, the first in row {bad[0] + 1}, "
                f'"{table[name].iloc[bad[0]]}"'
            )
