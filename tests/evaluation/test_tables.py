from cvae_tf.evaluation.tables import markdown, psnr_table


def test_markdown_columns_are_aligned():
    assert markdown(["name", "dB"], [["a", 1.5], ["longer name", 22.25]]) == (
        "| name        |    dB |\n"
        "| ----------- | ----: |\n"
        "| a           |   1.5 |\n"
        "| longer name | 22.25 |\n")


def test_psnr_table_counts_frames_from_1():
    header, rows = psnr_table({"copy-first": [20.0, 21.23456], "sample 1": [1, 2]})
    assert header == ["frame", "psnr_copy_first", "psnr_sample_1"]
    assert rows == [(1, "20.0000", "1.0000"), (2, "21.2346", "2.0000")]
