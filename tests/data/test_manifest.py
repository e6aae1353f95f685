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
}


def test_every_field_is_covered_by_the_changes():
    assert set(CHANGES) == set(Manifest.model_fields)


@pytest.mark.parametrize("field", CHANGES)
def test_each_field_changes_the_hash_and_is_named(field):
    mine, theirs = Manifest(**BASE), Manifest(**{**BASE, field: CHANGES[field]})
    assert mine.hash != theirs.hash
    assert [line.split(":")[0] for line in mine.differences(theirs)] == [field]
    with pytest.raises(ManifestError, match=rf"made in another way \(v01\).*{field}: "):
        mine.require_same(theirs, where="v01")


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
