"""An error carries its fix as a value, which whoever shows it names in words of its own."""

import pickle

from mor_core.errors import Fix, Refused, UserError


def test_a_library_names_the_setting_that_has_to_be_another():
    assert str(UserError("'papre' is no sweep", fix=Fix(setting="preset"))) == "preset: 'papre' is no sweep"
    assert str(Refused("too little", fix=Fix(setting="max_hours", value="1"))) == "max_hours = 1: too little"
    assert str(UserError("a sentence with {braces}")) == "a sentence with {braces}"


def test_words_of_a_fix_end_the_sentence():
    error = Refused("the name is taken", fix=Fix(setting="name", words="use {} to keep both apart"))
    assert str(error) == "the name is taken; use name to keep both apart"
    assert error.explanation(lambda fix: f"--{fix.setting}") == "the name is taken; use --name to keep both apart"
    refresh = Fix(verb="data prepare", setting="refresh", words="{} takes a new one")
    assert str(UserError("it is gone", fix=refresh)) == "it is gone; data prepare with refresh takes a new one"


def test_a_fix_goes_along_between_processes():
    error = pickle.loads(pickle.dumps(UserError("no", fix=Fix(setting="preset"))))
    assert (error.fix, str(error)) == (Fix(setting="preset"), "preset: no")
