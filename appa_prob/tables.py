r"""Tables in CSV and parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import UserError

__all__ = ["check_places", "read_parts", "read_table"]


def read_table(path: str | Path, what: str, texts: Sequence[str] = ()) -> pd.DataFrame:
    r"""Reads a table.

    Arguments:
        path: A parquet file, by its suffix, or a CSV file with a header.
        what: What its rows are, for the messages of errors.
        texts: The columns that are texts in parquet files; in CSV files all are.

    Raises:
        UserError: If the file can't be read, or has no rows.
    """
    return pd.concat(list(read_parts(path, what, texts)))


def read_parts(
    path: str | Path, what: str, texts: Sequence[str] = (), rows: int = 200_000
) -> Iterator[pd.DataFrame]:
    r"""Reads a table that may be larger than memory, part by part; rows are numbered from 0.

    Arguments:
        path: As :func:`read_table` takes it, like what follows.
        what: What its rows are.
        texts: The columns that are texts in parquet files.
        rows: The number of rows of a part.

    Raises:
        UserError: If the file can't be read, or has no rows.
    """
    parts = _parquet(path, what, texts, rows) if _is_parquet(path) else _csv(path, what, rows)
    count = 0
    for part in parts:
        yield part.set_axis(pd.RangeIndex(count, count + len(part)))
        count += len(part)
    if not count:
        raise UserError(f"{path} has no {what}")


def _is_parquet(path: str | Path) -> bool:
    return Path(path).suffix == ".parquet"


def _csv(path: str | Path, what: str, rows: int) -> Iterator[pd.DataFrame]:
    try:
        # As texts first: a country may be called "NA".
        parts = pd.read_csv(
            path, dtype=str, keep_default_na=False, skipinitialspace=True, chunksize=rows
        )
        with parts:
            for part in parts:
                if not isinstance(part.index, pd.RangeIndex):  # pandas takes the surplus for one
                    raise UserError(
                        f"{path} can't be read as CSV: rows have more values than the header"
                    )
                yield part
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a CSV file of {what}") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} can't be read as CSV: {str(error).strip()}") from None


def _parquet(
    path: str | Path, what: str, texts: Sequence[str], rows: int
) -> Iterator[pd.DataFrame]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path}: parquet files need pyarrow: pip install pyarrow") from None
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(rows):
                part = batch.to_pandas()
                part = part.reset_index([name for name in part.index.names if name])
                present = part.columns.intersection(list(texts))
                part = part.astype({name: object for name in present})
                yield part.fillna({name: "" for name in present})
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a parquet file of {what}") from None
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"{path} can't be read as parquet: {str(error).strip()}") from None


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
                f"{what}; {len(bad)} have none, the first in row {table.index[bad[0]] + 1}, "
                f'"{table[name].iloc[bad[0]]}"'
            )
