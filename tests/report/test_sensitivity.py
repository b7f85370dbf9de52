from compressor.report import run, sensitivity

TOLD = {"file": "sensitivity.csv", "metric": "accuracy", "dense": 0.9, "noise": 0.02, "images": 135}
ROWS = """layer,channels,ratio,kept,value,drop
conv1,16,0.3,11,0.85,0.05
conv1,16,0.6,6,0.4,0.5
conv2,32,0.3,22,0.9,0.0
conv2,32,0.6,12,0.88,0.02
"""


def test_a_table_of_sensitivity_is_a_section_and_a_figure(tmp_path, a_run):
    report = a_run(tmp_path)
    (tmp_path / "sensitivity.csv").write_text(ROWS)
    found = {**report, "sensitivity": TOLD}
    assert sensitivity.read(tmp_path, found)["conv2"] == {0.3: 0.9, 0.6: 0.88}
    assert sensitivity.rows(sensitivity.read(tmp_path, found)) == (
        ["layer", "0.3", "0.6"],
        [["`conv1`", "0.8500", "0.4000"], ["`conv2`", "0.9000", "0.8800"]],
    )
    assert "0.9000; one standard error is 0.0200" in sensitivity.words(found)
    assert sensitivity.draw(tmp_path, found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_without_a_table_says_nothing_of_it(tmp_path, a_run):
    a_run(tmp_path)
    run.write(tmp_path)
    assert "Sensitivity" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "figures" / "sensitivity.png").exists()


def test_a_table_that_was_moved_away_is_left_out(tmp_path, a_run):
    assert sensitivity.read(tmp_path, {**(a_run(tmp_path)), "sensitivity": TOLD}) == {}
