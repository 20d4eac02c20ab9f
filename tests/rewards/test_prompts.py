"""Where the words of a question come from: the user's own copy, by hash where one is known, else our own."""

import logging
from dataclasses import replace

import pytest

from roborl.errors import ConfigError
from roborl.rewards.prompts import (
    PromptConfig,
    PromptContract,
    constants_of,
    digest_of,
    load_prompt,
    own_prompt,
    texts_of,
)
from roborl.rewards.roboreward import CONTRACT as ROBOREWARD

PUBLISHED = "Kindly rate {task}.\nReply with VERDICT: then a number.\n"
CONTRACT = PromptContract(name="toy", own="How far is {task}? VERDICT:", words=("verdict:",))
KNOWN = PromptContract(name="toy", own=CONTRACT.own, words=CONTRACT.words, known=(digest_of(PUBLISHED),))


def prompt_from(text, suffix, tmp_path, contract=CONTRACT, **options):
    path = tmp_path / f"copy{suffix}"
    path.write_text(text)
    return load_prompt(contract, PromptConfig(file=str(path), **options))


SOURCES = {
    "constant": 'PROMPT = """' + PUBLISHED + '"""\nother = "no words of interest"\n',
    "formatted": "def ask(task):\n    return f'''" + PUBLISHED + "'''\n",
    "sum": 'def ask(task):\n    return "Kindly rate " + task + ".\\nReply with VERDICT: then a number.\\n"\n',
    "adjacent": 'T = ("Kindly rate {task}.\\n"\n     "Reply with VERDICT: then a number.\\n")\n',
    "twice": 'A = """' + PUBLISHED + '"""\nB = """' + PUBLISHED + '"""\n',
}


@pytest.mark.parametrize("name", SOURCES)
def test_words_are_read_from_a_source_and_the_source_is_not_run(tmp_path, name):
    trap = "raise SystemExit('was run')\n"
    prompt = prompt_from(trap + SOURCES[name], ".py", tmp_path, KNOWN)
    assert prompt.template == PUBLISHED
    assert (prompt.origin, prompt.slot) == ("known", "{task}")
    assert prompt.sha256 == digest_of(PUBLISHED)


@pytest.mark.parametrize("fence", ["```", "````", "~~~"])
@pytest.mark.parametrize("kind", ["text", "python"])
def test_words_are_read_from_a_card(tmp_path, fence, kind):
    block = SOURCES["formatted"] if kind == "python" else PUBLISHED
    language = "python" if kind == "python" else ""
    card = f"# Model\n\nUse it so:\n\n{fence}{language}\n{block}{fence}\n\n```bash\npip install it\n```\n"
    (tmp_path / "README.md").write_text(card)
    prompt = load_prompt(KNOWN, PromptConfig(), tmp_path)
    assert (prompt.template, prompt.origin) == (PUBLISHED, "known")
    assert prompt.place.endswith("README.md")


def test_words_whose_hash_nobody_published_are_taken_from_the_users_copy(tmp_path, caplog):
    prompt = prompt_from(PUBLISHED, ".txt", tmp_path)
    assert (prompt.origin, prompt.template) == ("found", PUBLISHED.rstrip("\n"))
    assert prompt_from(SOURCES["constant"], ".py", tmp_path).template == PUBLISHED
    assert not caplog.records


@pytest.mark.parametrize("slot", ["<INSERT TASK HERE>", "<your instruction>", "[Insert the task]"])
def test_a_card_may_mark_the_place_of_the_instruction_for_people(tmp_path, slot):
    (tmp_path / "README.md").write_text(f"```text\nReply with VERDICT: <score>\n\nTo do: {slot}\n```\n")
    prompt = load_prompt(CONTRACT, PromptConfig(), tmp_path)
    assert (prompt.origin, prompt.slot) == ("found", slot)
    assert prompt.fill("lift the lid") == ("Reply with VERDICT: <score>\n\nTo do: lift the lid",)


def test_words_that_differ_from_the_published_ones_are_taken_with_a_warning(tmp_path, caplog):
    (tmp_path / "README.md").write_text("```\nRate {task}! VERDICT:\n```\n")
    with caplog.at_level(logging.WARNING):
        prompt = load_prompt(KNOWN, PromptConfig(), tmp_path)
    assert prompt.origin == "found"
    assert "not the published one" in caplog.text


def test_without_a_copy_our_own_words_are_used_with_a_warning(tmp_path, caplog):
    (tmp_path / "README.md").write_text("# A card without words\n")
    for folder in (None, tmp_path / "nowhere", tmp_path):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prompt = load_prompt(KNOWN, PromptConfig(), folder)
        assert (prompt.origin, prompt.template) == ("own", KNOWN.own)
        assert "as prompt.file in the model's settings" in caplog.text


def test_known_words_are_found_in_sources_beside_a_checkpoint(tmp_path, caplog):
    (tmp_path / "README.md").write_text("```\nRate {task}! VERDICT:\n```\n")
    (tmp_path / "inference.py").write_text("raise SystemExit('was run')\n" + SOURCES["constant"])
    (tmp_path / "torn.py").write_bytes(b"\xff\xfe\x00")
    with caplog.at_level(logging.WARNING):
        prompt = load_prompt(KNOWN, PromptConfig(), tmp_path)
    assert (prompt.origin, prompt.template) == ("known", PUBLISHED)
    assert prompt.place == str(tmp_path / "inference.py")
    assert not caplog.records
    insisted = load_prompt(CONTRACT, PromptConfig(sha256=digest_of(PUBLISHED)), tmp_path)
    assert insisted.template == PUBLISHED


def test_unknown_words_in_sources_beside_a_checkpoint_do_not_count(tmp_path):
    (tmp_path / "other.py").write_text('A = "Rate {task}! VERDICT:"\n')
    for contract in (KNOWN, CONTRACT):
        assert load_prompt(contract, PromptConfig(), tmp_path).origin == "own"


def test_of_several_published_wordings_the_first_is_preferred_and_others_are_a_warning(tmp_path, caplog):
    later = "Label {task}. VERDICT:"
    contract = replace(KNOWN, known=(*KNOWN.known, digest_of(later)))
    (tmp_path / "a_training.py").write_text(f"T = {later!r}\n")
    for options in ({}, {"file": str(tmp_path / "a_training.py")}):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prompt = load_prompt(contract, PromptConfig(**options), tmp_path)
        assert (prompt.origin, prompt.template) == ("known", later)
        assert "not the published one that its authors ask with" in caplog.text
    caplog.clear()
    assert load_prompt(contract, PromptConfig(sha256=digest_of(later)), tmp_path).template == later
    (tmp_path / "inference.py").write_text(SOURCES["constant"])
    assert load_prompt(contract, PromptConfig(), tmp_path).template == PUBLISHED
    assert not caplog.records


def test_a_card_with_several_possible_words_is_not_guessed_at(tmp_path, caplog):
    (tmp_path / "README.md").write_text("```\nRate {task}! VERDICT:\n```\n```\nJudge {task}! VERDICT:\n```\n")
    with caplog.at_level(logging.WARNING):
        assert load_prompt(CONTRACT, PromptConfig(), tmp_path).origin == "own"
    assert "possible wordings" in caplog.text


def test_a_named_file_without_the_words_or_with_several_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="not one wording"):
        prompt_from("nothing of the kind", ".txt", tmp_path)
    with pytest.raises(ConfigError, match="not one wording"):
        prompt_from('A = "{task} verdict: 1"\nB = "{task} verdict: 2"\n', ".py", tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prompt(CONTRACT, PromptConfig(file=str(tmp_path / "absent.txt")))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prompt(CONTRACT, PromptConfig(file=str(tmp_path / "binary.txt")))


def test_a_hash_that_is_insisted_on_is_insisted_on(tmp_path):
    good = digest_of(PUBLISHED)
    assert prompt_from(SOURCES["constant"], ".py", tmp_path, sha256=good).template == PUBLISHED
    with pytest.raises(ConfigError, match="insisted on"):
        prompt_from(SOURCES["constant"].replace("Kindly", "Please"), ".py", tmp_path, sha256=good)
    with pytest.raises(ConfigError, match="insisted on"):
        load_prompt(CONTRACT, PromptConfig(sha256=good), tmp_path)


@pytest.mark.parametrize(
    ("words", "origin"), [(KNOWN.own, "own"), (PUBLISHED, "known"), ("Rate {task}! VERDICT:", "found")]
)
def test_words_that_are_insisted_on_are_called_what_they_are(tmp_path, words, origin):
    for contract in (KNOWN, replace(KNOWN, known=())):
        prompt = prompt_from(words, ".txt", tmp_path, contract, sha256=digest_of(words))
        assert prompt.template == words
        assert prompt.origin == ("found" if origin == "known" and not contract.known else origin)


def test_the_instruction_stays_words_wherever_it_goes():
    contract = PromptContract(name="toy", own="a <image> b {task} c <image> d {task}", pictures=2, slots=2)
    parts = own_prompt(contract).fill("lift <image> {task}")
    assert parts == ("a ", " b lift <image> {task} c ", " d lift <image> {task}")


@pytest.mark.parametrize(
    "text",
    [
        "no slot <image><image>",
        "{task} <image>",
        "{task} {other} <image><image>",
        "{task} {task} {task} <image><image>",
        "{task} <image><image>",
    ],
)
def test_words_that_break_the_contract_are_not_taken(text):
    assert PromptContract(name="toy", own="", pictures=2, slots=2).slot(text) is None


def test_other_braces_do_not_matter():
    contract = PromptContract(name="toy", own="")
    assert contract.slot('{task} gives {"score": 1} and {}') == "{task}"


def test_a_source_with_an_error_has_no_words(tmp_path):
    assert list(constants_of("def (:\n")) == []
    assert list(constants_of("x = f'{a!r:>10} b' + c + 'd'")) == ["{a} b{c}d"]
    (tmp_path / "long.txt").write_text("x" * (5 << 20))
    with pytest.raises(ConfigError, match="larger"):
        list(texts_of(tmp_path / "long.txt"))


def test_our_own_words_keep_every_contract():
    prompt = own_prompt(ROBOREWARD)
    (words,) = prompt.fill("put the cube into the bowl")
    assert "put the cube into the bowl" in words
    assert "{" not in words
