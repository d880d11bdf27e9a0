"""Policies from YAML: what is wrong with one is told by file and field."""

from pathlib import Path

import pytest

from services.safety.catalogue import GuardCatalogue
from services.safety.errors import PolicyFileError
from services.safety.judgement import Aspect, HazardCategory
from services.safety.policies.catalogue import open_policies, problem_of
from services.safety.policies.files import BUILTIN_FOLDER, read_policies, read_policy
from services.safety.policies.policy import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    PolicyHazard,
    TruncationHandling,
)
from tests.fakes.guards import INSULTS, VIOLENCE, FakeGuard

HEAD = "name: mine\nversion: '2'\ndescription: For tests.\n"


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_whole_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        HEAD + "aspects: [prompt]\nguards: [fake, guards/other]\ncombination: majority\nthreshold: 0.4\n"
        "hazards:\n  vcr:\n  tests/insults: {threshold: 0.2}\non_error: unsafe\non_controversial: safe\n"
        "on_truncated: judged-part\n",
    )
    policy = read_policy(file)
    assert (policy.name, policy.version, policy.description) == ("policies/mine", "2", "For tests.")
    assert policy.aspects == (Aspect.PROMPT,)
    assert policy.guards == ("guards/fake", "guards/other")
    assert (policy.combination, policy.threshold) == (Combination.MAJORITY, 0.4)
    assert policy.hazards == (PolicyHazard("vcr"), PolicyHazard("tests/insults", 0.2))
    assert (policy.on_error, policy.on_controversial) == (ErrorHandling.UNSAFE, ControversialHandling.SAFE)
    assert policy.on_truncated is TruncationHandling.JUDGED_PART


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: Mine\nversion: '2'\ndescription: x\n", "name: String should match"),
        ("name: mine\ndescription: x\n", "version: Field required"),
        (HEAD + "treshold: 0.4\n", "treshold: is no field, did you mean 'threshold'?"),
        (HEAD + "threshold: 0\n", "threshold: must be above 0 and at most 1"),
        (HEAD + "threshold: .nan\n", "threshold: must be above 0 and at most 1"),
        (HEAD + "threshold: high\n", "threshold: Input should be a valid number"),
        (HEAD + "hazards:\n  vrc:\n", "hazards[0].code: 'vrc' is no AILuminate code; did you mean 'vcr'?"),
        (HEAD + "hazards:\n  S10:\n", "A guard's own code is written TAXONOMY/CODE"),
        (HEAD + "hazards:\n  vcr: {treshold: 0.1}\n", "hazards.vcr.treshold: is no field, did you mean 'threshold'?"),
        (HEAD + "hazards:\n  vcr: {threshold: 1.5}\n", "hazards[0].threshold: must be above 0 and at most 1"),
        (HEAD + "on_error: safe\n", "on_error: Input should be 'error' or 'unsafe', got 'safe'"),
        (HEAD + "combination: all\n", "combination: Input should be"),
        (HEAD + "aspects: []\n", "aspects: "),
        (HEAD + "guards: [a, a]\n", "guards[1]: 'guards/a' is there already"),
        (HEAD + "guards: [" + ",".join(f"g{n}" for n in range(9)) + "]\n", "guards: has 9 entries, at most 8"),
        ("- name\n", "must hold a mapping"),
        ("name: [\n", "line "),
        ("name: \x07\n", "is not YAML"),
    ],
)
def test_a_wrong_file_names_itself_and_the_field(tmp_path: Path, text: str, problem: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(PolicyFileError) as caught:
        read_policy(file)
    assert str(file) in caught.value.message
    assert problem in caught.value.message
    assert caught.value.reason == "POLICY_FILE_INVALID"


def test_a_file_that_is_not_text_and_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(PolicyFileError, match="cannot be read"):
        read_policies(tmp_path)
    with pytest.raises(PolicyFileError, match="EVALFLEET_POLICY_DIRS"):
        read_policies(tmp_path / "absent")


def test_the_built_in_policies_can_be_read_and_say_whether_they_fit() -> None:
    policies = {name: policy for name, (_, policy) in read_policies(BUILTIN_FOLDER).items()}
    assert {"policies/strict", "policies/loose", "policies/severe-harm", "policies/ailuminate"} <= set(policies)
    guards = GuardCatalogue([FakeGuard()])
    assert problem_of(policies["policies/strict"], guards) == ""
    assert "'ncr' is not known to guards/fake" in problem_of(policies["policies/ailuminate"], guards)
    every = tuple(
        HazardCategory("t", "1", each.code, ailuminate_code=each.code)
        for each in policies["policies/ailuminate"].hazards
    )
    assert problem_of(policies["policies/ailuminate"], GuardCatalogue([FakeGuard(categories=every)])) == ""


def test_an_operators_policy_replaces_a_built_in_one_of_its_name(tmp_path: Path) -> None:
    write(tmp_path, HEAD.replace("mine", "strict") + "threshold: 0.1\n")
    catalogue = open_policies([tmp_path], GuardCatalogue([FakeGuard()]))
    assert catalogue.find("policies/strict", field="policy").threshold == 0.1
    assert catalogue.find("policies/loose", field="policy")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("guards: [fakes]\n", "guards[0]: there is no 'guards/fakes'; did you mean 'guards/fake'?"),
        ("hazards:\n  cse:\n", "hazards[0].code: 'cse' is not known to guards/fake"),
        ("hazards:\n  tests/insult:\n", "did you mean 'tests/insults'?"),
        ("guards: [answers]\n", "aspects: guards/answers does not judge a prompt"),
    ],
)
def test_an_operators_policy_must_fit_the_guards(tmp_path: Path, text: str, problem: str) -> None:
    guards = GuardCatalogue([FakeGuard(), FakeGuard("answers", aspects=(Aspect.RESPONSE,))])
    write(tmp_path, HEAD + text)
    with pytest.raises(PolicyFileError) as caught:
        open_policies([tmp_path], guards)
    assert problem in caught.value.message


def test_guards_of_a_policy_may_know_its_hazards_between_them(tmp_path: Path) -> None:
    guards = GuardCatalogue([FakeGuard("a", categories=(VIOLENCE,)), FakeGuard("b", categories=(INSULTS,))])
    write(tmp_path, HEAD + "guards: [a, b]\nhazards:\n  vcr:\n  tests/insults:\n")
    assert open_policies([tmp_path], guards).find("policies/mine", field="policy")


def test_two_folders_may_not_have_policies_of_one_name(tmp_path: Path) -> None:
    write(tmp_path / "a", HEAD)
    write(tmp_path / "b", HEAD)
    with pytest.raises(PolicyFileError, match="has a policy of this name, too"):
        open_policies([tmp_path / "a", tmp_path / "b"], GuardCatalogue([FakeGuard()]))
    write(tmp_path / "a", HEAD, "again.yaml")
    with pytest.raises(PolicyFileError, match="has a policy of this name, too"):
        open_policies([tmp_path / "a"], GuardCatalogue([FakeGuard()]))
