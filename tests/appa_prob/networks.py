"""Networks that tests observe a tiny world with."""

NETWORKS = {
    "networks": [
        {
            "network": "stations",
            "variables": ["temperature", "surface_pressure"],
            "error": {"temperature": "0.5 K", "surface_pressure": "1 hPa"},
        },
        {
            "network": "satellite",
            "satellites": ["NOAA-20"],
            "variables": ["temperature"],
            "error": {"temperature": ["2 K", "3 K"]},
        },
    ]
}
