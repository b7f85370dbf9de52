from compressor import preview

COMING = {
    "model": "resnet20",
    "stages": [
        {"name": "train", "reused": True, "skipped": False, "epochs": 30},
        {"name": "compress", "reused": False, "skipped": False, "epochs": None},
        {"name": "recalibrate", "reused": False, "skipped": True, "epochs": None},
        {"name": "finetune", "reused": False, "skipped": False, "epochs": 10},
    ],
    "cut": {"macs": (1000, 523)},
    "flip_rate": 0.0,
    "seconds": 12.3,
}


def test_the_plan_of_a_member_is_one_line():
    assert preview.line(COMING) == (
        "resnet20: train reused, compress, finetune (10 epochs); 0.523 of the dense MACs; "
        "training takes about 12 s"
    )
    nothing = {**COMING, "cut": None, "seconds": None, "flip_rate": 0.36}
    nothing["stages"] = [{**stage, "skipped": True, "reused": False} for stage in COMING["stages"]]
    assert preview.line(nothing) == ("resnet20: no stage runs; 36.0% of the train labels changed")
