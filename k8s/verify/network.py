"""Checks of network policies, and what they let through."""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from ipaddress import ip_network
from typing import Any, Final

from k8s.verify.provided import PROVIDED
from k8s.verify.rendered import Document, Pod, Problem, Rendered, called, selects

Peer = Mapping[str, Any]
_WIDEST_RANGE: Final = {4: 8, 6: 16}
"""By the version of the protocol, the shortest prefix of addresses that are still somebody in particular."""


class Way(Enum):
    """One of the two ways that a policy is about."""

    OUT = "out to"
    IN = "in to"

    @property
    def policy_type(self) -> str:
        """As in policyTypes."""
        return "Egress" if self is Way.OUT else "Ingress"

    @property
    def rules_key(self) -> str:
        """The field of a policy's rules."""
        return self.policy_type.lower()

    @property
    def peers_key(self) -> str:
        """The field of a rule's peers."""
        return "to" if self is Way.OUT else "from"


def check_policies(rendered: Rendered) -> Iterator[Problem]:
    """Every pod is isolated both ways; every policy is about pods, peers and ports that are there."""
    for pod in rendered.pods:
        for way in Way:
            if not policies_of(rendered, way, pod):
                yield Problem(pod.resource, f"no network policy isolates it ({way.policy_type})")
    for policy in rendered.of_kind("NetworkPolicy"):
        subjects = rendered.selected(policy["spec"]["podSelector"])
        if not subjects:
            yield Problem(called(policy), "selects no pods")
        for way in Way:
            for rule in policy["spec"].get(way.rules_key, ()):
                yield from _check_rule(rendered, policy, subjects, way, rule)


def _check_rule(
    rendered: Rendered, policy: Document, subjects: Sequence[Pod], way: Way, rule: Mapping[str, Any]
) -> Iterator[Problem]:
    if not rule.get(way.peers_key):
        yield Problem(called(policy), f"a rule is about everybody ({way.rules_key} without {way.peers_key})")
        return
    inside: list[Pod] = []
    for peer in rule[way.peers_key]:
        found = _pods_of(rendered, peer)
        inside += found
        if not found and not is_outside(peer):
            yield Problem(called(policy), f"there is no such peer ({way.rules_key}): {_shown(peer)}")
    ports = rule.get("ports", ())
    if not ports or any("port" not in each for each in ports):
        yield Problem(called(policy), f"a rule opens all ports ({way.rules_key})")
    if any("endPort" in each for each in ports):
        yield Problem(called(policy), f"a rule opens a range of ports ({way.rules_key})")
    # The ports of pods elsewhere are not known here.
    listeners = inside if way is Way.OUT else subjects
    if way is Way.OUT and len(inside) < len(rule[way.peers_key]):
        return
    for port in (each for each in ports if "port" in each):
        if listeners and all(each.port(port["port"]) is None for each in listeners):
            yield Problem(called(policy), f"opens port {port['port']}, which no pod has ({way.rules_key})")


def is_let_through(rendered: Rendered, way: Way, caller: Pod, listener: Pod, port: int) -> bool:
    """Whether the policies of one side let a call to a listener's port pass.

    Args:
        rendered: the overlay.
        way: whose policies: OUT, the caller's; IN, the listener's.
        caller: who calls.
        listener: who is called.
        port: of the listener's pods.
    """
    subject, peer = (caller, listener) if way is Way.OUT else (listener, caller)
    rules = rules_of(rendered, way, subject)
    return rules is None or any(_lets_through(each, way, peer, listener, port) for each in rules)


def is_let_in_from(rendered: Rendered, provided: str, listener: Pod, port: int) -> bool:
    """Whether pods of a namespace that the cluster brings may call a listener's port.

    Args:
        rendered: the overlay.
        provided: what is in the namespace (``Provided.namespaces``).
        listener: who is called.
        port: of the listener's pods.
    """
    rules = rules_of(rendered, Way.IN, listener)
    return rules is None or any(
        opens(rule, listener, port) and any(is_provided(each, provided) for each in rule.get("from", ()))
        for rule in rules
    )


def _lets_through(rule: Mapping[str, Any], way: Way, peer: Pod, listener: Pod, port: int) -> bool:
    peers = rule.get(way.peers_key)
    is_peer = not peers or any(_is_inside(each) and selects(each["podSelector"], peer.labels) for each in peers)
    return is_peer and opens(rule, listener, port)


def opens(rule: Mapping[str, Any], listener: Pod | None, port: int) -> bool:
    """Whether TCP to a port is among what a rule opens; a listener of ours may have its ports told by name."""
    ports = rule.get("ports")
    return not ports or any(
        each.get("protocol", "TCP") == "TCP"
        and "port" in each
        and port == (each["port"] if listener is None else listener.port(each["port"]))
        for each in ports
    )


def rules_of(rendered: Rendered, way: Way, pod: Pod) -> list[Mapping[str, Any]] | None:
    """Return the rules that say who may pass one way of a pod; ``None``: everybody may, it is not isolated."""
    policies = policies_of(rendered, way, pod)
    return [rule for each in policies for rule in each["spec"].get(way.rules_key, ())] if policies else None


def policies_of(rendered: Rendered, way: Way, pod: Pod) -> list[Document]:
    """Return the policies that are about one way of a pod."""
    return [
        each
        for each in rendered.of_kind("NetworkPolicy")
        if way.policy_type in each["spec"].get("policyTypes", ["Ingress"])
        and selects(each["spec"]["podSelector"], pod.labels)
    ]


def _pods_of(rendered: Rendered, peer: Peer) -> list[Pod]:
    return rendered.selected(peer["podSelector"]) if _is_inside(peer) else []


def _is_inside(peer: Peer) -> bool:
    """Whether a peer is pods of the policy's own namespace."""
    return "podSelector" in peer and "namespaceSelector" not in peer


def is_outside(peer: Peer) -> bool:
    """Whether a peer is one that the cluster brings: a known namespace, or a range of addresses, if not too wide."""
    if "ipBlock" in peer:
        addresses = ip_network(peer["ipBlock"]["cidr"])
        return addresses.prefixlen >= _WIDEST_RANGE[addresses.version]
    return any(is_provided(peer, each) for each in PROVIDED.namespaces)


def is_provided(peer: Peer, provided: str) -> bool:
    """Whether a peer is in the namespace that the cluster brings for this."""
    return peer.get("namespaceSelector") == PROVIDED.namespaces[provided]


def _shown(peer: Peer) -> str:
    return ", ".join(f"{kind} {dict(told)}" for kind, told in peer.items())
