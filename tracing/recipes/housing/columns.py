"""The columns of California housing: what a request may hold, and the figures that its numbers are standardised by.

The means and standard deviations (of scaled values) and the medians (``fill``) are those of the rows that train.py
learns from, rounded; ``dataset.py`` prints them. Ranges are wider than the data's: they catch a wrong unit or sign.
"""

CATEGORIES = ("<1H OCEAN", "INLAND", "ISLAND", "NEAR BAY", "NEAR OCEAN")
# Of the coordinates, in radians for each standard deviation (about 200 km): so that a small network can tell a bay
# from the valley behind it. The shortest wave has 20 km, of which the eighth binary digit of bf16 is 80 m.
PLACES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
COUNTS = {"scale": "log", "low": 0, "high": 1_000_000, "optional": True}

COLUMNS = (
    {"name": "longitude", "mean": -119.6, "std": 2.0, "low": -125, "high": -114, "waves": PLACES},
    {"name": "latitude", "mean": 35.6, "std": 2.1, "low": 32, "high": 42.5, "waves": PLACES},
    {"name": "housing_median_age", "mean": 28.6, "std": 12.5, "fill": 29, "low": 0, "high": 200, "optional": True},
    {"name": "total_rooms", "mean": 7.63, "std": 0.75, "fill": 2127, **COUNTS},
    {"name": "total_bedrooms", "mean": 6.05, "std": 0.73, "fill": 434, **COUNTS},
    {"name": "population", "mean": 7.02, "std": 0.74, "fill": 1164, **COUNTS},
    {"name": "households", "mean": 5.98, "std": 0.73, "fill": 409, **COUNTS},
    {"name": "median_income", "scale": "log", "mean": 1.52, "std": 0.36, "fill": 3.54, "low": 0, "high": 50},
    {"name": "ocean_proximity", "kind": "category", "categories": CATEGORIES, "optional": True},
)
TARGET = {
    "name": "median_house_value",
    "unit": "US dollars",
    "transform": "exp",  # of mean + std * the model's output
    "mean": 12.08,
    "std": 0.57,
    # The census gave no value above 500,000 dollars (written as 500,001) and none below 14,999.
    "low": 14_999,
    "high": 500_001,
    "decimals": 1,
}
SETTINGS = {"columns": COLUMNS, "target": TARGET}
