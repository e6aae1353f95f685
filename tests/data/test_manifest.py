import hashlib
import json

import pytest
from pydantic import ValidationError

from lego_fusion.data.manifest import Manifest
from lego_fusion.errors import ManifestError

BASE = {"modality": "motion", "extractor": "flow", "version": "1", "width": 8}
CHANGES = {
    "modality": "flow",
    "extractor": "other",
    "version": "2",
    "settings": {"grid": 4},
    "weights_hash": "ab",
    "width": 9,
    "crops": 10,
    "snippet_frames": 8,
    "stride": 8,
    "normalisation": "l2",
    "nature": "magnitude",
    "unit_kind": "frame",
    "units": 12,
    "grid": (3, 4),
}
CELLS = {**BASE, "unit_kind": "cell", "units": 12, "grid": (2, 6)}


def test_every_field_is_covered_by_the_changes():
    assert set(CHANGES) == set(Manifest.model_fields)


@pytest.mark.parametrize("field", CHANGES)
def test_each_field_changes_the_hash_and_is_named(field):
    base = {"unit_kind": CELLS, "grid": CELLS, "units": {**CELLS, "units": 8, "grid": None}}.get(field, BASE)
    if field == "units":
        base = {**base, "unit_kind": "word"}
    mine, theirs = Manifest(**base), Manifest(**{**base, field: CHANGES[field]})
    assert mine.hash != theirs.hash
    assert [line.split(":")[0] for line in mine.differences(theirs)] == [field]
    with pytest.raises(ManifestError, match=rf"made in another way \(v01\).*{field}: "):
        mine.require_same(theirs, where="v01")


def test_without_units_the_hash_is_over_the_fields_that_there_always_were():
    fields = {**BASE, "settings": {}, "weights_hash": None, "crops": 1, "snippet_frames": 16, "stride": 16}
    fields |= {"normalisation": "none", "nature": "direction"}
    assert Manifest(**BASE).model_dump(mode="json") == fields
    assert Manifest(**BASE).hash == hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def test_units_survive_json_and_say_their_shape():
    mine = Manifest(**CELLS)
    again = Manifest.model_validate_json(mine.model_dump_json())
    assert again == mine and again.hash == mine.hash and again.grid == (2, 6)
    assert mine.row_shape == (12, 9) and Manifest(**BASE).row_shape == (8,)
    assert Manifest(**BASE, crops=10).row_shape == (10, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit_kind": "none"}, "units=12, grid=.*but unit_kind is none"),
        ({"crops": 2}, "finer units and 2 crops"),
        ({"units": 11}, "11 units, which do not fill a grid"),
        ({"grid": (-3, -4)}, "do not fill a grid"),
    ],
    ids=str,
)
def test_units_that_contradict_themselves_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Manifest(**{**CELLS, **change})


def test_the_order_of_settings_does_not_matter():
    one, other = ({"grid": 4, "bins": 8}, {"bins": 8, "grid": 4})
    mine, theirs = Manifest(**BASE, settings=one), Manifest(**BASE, settings=other)
    assert mine.hash == theirs.hash
    mine.require_same(theirs, where="v01")


def test_json_round_trip_keeps_the_hash():
    mine = Manifest(**BASE, settings={"size": [240, 360], "weights": None})
    assert Manifest.model_validate_json(mine.model_dump_json()).hash == mine.hash


@pytest.mark.parametrize(
    "change",
    [{"width": 0}, {"crops": 0}, {"stride": 0}, {"modality": "../x"}, {"normalisation": "l1"}, {"unknown": 1}],
    ids=str,
)
def test_wrong_values_are_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        Manifest(**{**BASE, **change})
