import json

import pytest

from finetune.specs import Dtype, InputSpec, LabelKind, LabelSpec, Resize


def test_input_spec_survives_json():
    spec = InputSpec((64, 32), 2, ("a", "b"), Dtype.uint16, (0.0, 4000.0), (0.1, 0.2), (1.0, 2.0),
                     "bicubic", Resize.pad)
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_input_spec_refuses_statistics_for_another_number_of_channels():
    with pytest.raises(ValueError, match="mean"):
        InputSpec((8, 8), 3, ("r", "g", "b"), Dtype.uint8, (0, 255), (0.5,), (1.0, 1.0, 1.0))


def test_label_spec_survives_json_and_refuses_unknown_positive_class():
    spec = LabelSpec(LabelKind.single, ("no", "yes"), "yes")
    assert LabelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.is_binary and spec.output_width == 2
    with pytest.raises(ValueError, match="maybe"):
        LabelSpec(LabelKind.single, ("no", "yes"), "maybe")
