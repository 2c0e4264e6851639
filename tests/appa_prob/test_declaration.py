"""Declarations of networks in YAML: what is read, and one line for each mistake."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from appa_prob.catalogue import Catalogue, Channel
from appa_prob.declaration import parse_networks, read_networks
from appa_prob.errors import UserError
from appa_prob.satellite_network import SatelliteNetwork
from appa_prob.station_network import StationNetwork

STATIONS: dict[str, Any] = {
    "network": "stations",
    "variables": ["temperature"],
    "error": {"temperature": "1 K"},
}
SATELLITE = STATIONS | {"network": "satellite", "satellites": ["NOAA-20"]}
CATALOGUE = Catalogue((Channel("temperature", 0.95, "K"), Channel("temperature", 0.2, "K")))

GOOD = """
networks:
  - network: stations
    name: airports
    variables: [temperature, surface_pressure]
    error: {temperature: 1.0 K, surface_pressure: 1.0 hPa}
    times: [0, 12]
    file: own.csv
  - network: satellite
    satellites: [NOAA-20, MetOp-A]
    variables: [temperature]
    levels: [0.95, 0.2]
    swath: 1500 km
    half_window: 0.5 h
    times: {every: 2}
    error: {temperature: [1.0 K, 2.0 K]}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "networks.yaml"
    path.write_text(text)
    return path


def test_good_declaration(tmp_path: Path) -> None:
    airports, satellite = read_networks(write(tmp_path, GOOD))
    assert isinstance(airports, StationNetwork) and isinstance(satellite, SatelliteNetwork)
    assert (airports.label, satellite.label) == ("airports", "satellite")
    assert airports.file == tmp_path / "own.csv"
    assert airports.times == (0, 12)
    assert satellite.satellites == ("NOAA-20", "MetOp-A")
    assert satellite.levels == (0.95, 0.2)
    assert (satellite.swath, satellite.half_window) == (1500.0, 30.0)
    assert satellite.error == {"temperature": ["1.0 K", "2.0 K"]}


def test_example_of_the_documentation(tmp_path: Path) -> None:
    from appa_prob import declaration

    assert declaration.__doc__ is not None
    block = declaration.__doc__.split(".. code-block:: yaml")[1].split("Keys of every")[0]
    networks = read_networks(write(tmp_path, block.replace("\n    ", "\n")))
    assert [network.label for network in networks] == ["stations", "satellite"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (STATIONS | {"network": "station"}, 'unknown network "station"; did you mean "stations"'),
        (STATIONS | {"network": None}, "lacks the key `network`, one of stations, satellite"),
        (STATIONS | {"variable": 1}, 'unknown key "variable"; did you mean "variables"'),
        (STATIONS | {"satellites": ["NOAA-20"]}, 'unknown key "satellites"'),
        (STATIONS | {1: 2}, 'unknown key "1"'),
        ({"network": "stations", "variables": ["t"]}, "lacks the key `error`"),
        (STATIONS | {"variables": []}, "`variables` is []; expected a list of names"),
        (STATIONS | {"variables": "temperature"}, "expected a list of names"),
        (STATIONS | {"levels": ["low"]}, "expected a list of numbers"),
        (STATIONS | {"error": "1 K"}, "expected a number with a unit for each variable"),
        (STATIONS | {"times": "never"}, "`times` is 'never'; expected `all`, `{every: 4}`"),
        (STATIONS | {"times": {"every": 0}}, "expected `all`"),
        (STATIONS | {"times": [24]}, "expected `all`"),
        (STATIONS | {"file": 3}, "expected the path of a file"),
        (SATELLITE | {"satellites": ["NOAA-200"]}, 'did you mean "NOAA-20"?'),
        (SATELLITE | {"swath": "1 hPa"}, 'swath: "1 hPa" is a pressure; expected a length in km'),
        (SATELLITE | {"half_window": 45}, "has no unit; expected a duration in min"),
        (SATELLITE | {"file": "none.tle"}, "can't be read as two-line elements"),
        ("stations", "expected a network with keys and values, got 'stations'"),
    ],
)
def test_mistakes(tmp_path: Path, entry: object, message: str) -> None:
    path = write(tmp_path, yaml.safe_dump({"networks": [entry]}))
    with pytest.raises(UserError) as caught:
        read_networks(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"variables": ["temprature"]},
            'unknown variable "temprature"; did you mean "temperature',
        ),
        ({"levels": [0.9]}, "no level 0.9; did you mean 0.95?"),
        ({"error": {"temperature": "1 hPa"}}, "is a pressure; expected a temperature in K"),
        ({"error": {"temperature": "-1 K"}}, "is not positive"),
        ({"error": {"temperature": 1}}, "has no unit"),
    ],
)
def test_mistakes_that_only_the_catalogue_shows(changes: dict[str, Any], message: str) -> None:
    (network,) = parse_networks({"networks": [STATIONS | changes]}, Path())
    with pytest.raises(UserError) as caught:
        network.channels(CATALOGUE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected `networks:` with a list"),
        ([], "expected `networks:` with a list"),
        ({"networks": None}, "expected `networks:` with a list"),
        ({"networks": STATIONS}, "expected `networks:` with a list"),
        ({"networks": []}, "at least one network"),
        (
            {"networks": [STATIONS, STATIONS]},
            '2 networks are called "stations": give them a `name`',
        ),
        ({"networks": [STATIONS], "netwerks": []}, 'unknown key "netwerks"; did you mean "netw'),
    ],
)
def test_bad_lists(content: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_networks(content, Path())
    assert message in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: expected a YAML file"):
        read_networks(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="can't be read as YAML") as caught:
        read_networks(write(tmp_path, "networks: [\n  - {"))
    assert "\n" not in str(caught.value)
