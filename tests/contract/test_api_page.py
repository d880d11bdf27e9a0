"""docs/api.md has every method of every service, of the right kind, and under the role that it needs."""

import re
from pathlib import Path

from google.protobuf.descriptor import MethodDescriptor

from services.runtime.security.roles import METHOD_ROLES
from tests.contract.test_roles import services

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
_SECTION = re.compile(r"^`(evalfleet\.[\w.]+)`, port")
_ROW = re.compile(r"^\| `(\w+)` \| ([\w ]+) \| `(\w+)` \| ([^|]+) \|")
KINDS = {
    (False, False): "unary",
    (True, False): "client stream",
    (False, True): "server stream",
    (True, True): "both stream",
}


def told() -> dict[str, tuple[str, str, str]]:
    """What the page says: by ``package.Service/Method``, its kind, its role, and whether it may be repeated."""
    found, service = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if section := _SECTION.match(line):
            service = section[1]
        elif row := _ROW.match(line):
            found[f"{service}/{row[1]}"] = (row[2], row[3], row[4].partition(":")[0].strip())
    return found


def kind(method: MethodDescriptor) -> str:
    return KINDS[method.client_streaming, method.server_streaming]


def test_the_page_has_every_method_with_its_kind_and_role() -> None:
    expected = {
        f"{name}/{method.name}": (kind(method), str(METHOD_ROLES[f"{name}/{method.name}"]))
        for name, service in services().items()
        if name.startswith("evalfleet.")
        for method in service.methods
    }
    assert {name: said[:2] for name, said in told().items()} == expected


def test_the_page_says_of_every_method_whether_it_may_be_repeated() -> None:
    answers = {name: said[2] for name, said in told().items()}
    assert set(answers.values()) == {"reads", "yes", "no", "each item"}
    # What only reads cannot need the right to change something for all.
    assert not [name for name, said in answers.items() if said == "reads" and told()[name][1] == "administer"]
