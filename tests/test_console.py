from finetune.console import fail, say, table, warn


def test_names_are_printed_as_they_are(capsys):
    odd = "a:b:c [red]x[/red] :smile:"
    say(odd)
    warn(odd)
    fail(odd)
    table("t", ["class"], [[odd]])
    out, err = capsys.readouterr()
    assert out.count(odd) == 2 and err.count(odd) == 2
