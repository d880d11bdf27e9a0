"""Lines as gRPC 1.82.3 wrote them, for a caller's handshakes and for those of a channel of the same process."""

import pytest

from services.runtime.security.handshakes.lines import failed_handshake, is_handshake_step, severity

_START = b"I1122 22:23:48.922039    9445 "
_STEP = _START + b"handshaker.cc:155] CallNextHandshakerLocked: error=%s shutdown=false index=2, args={%s}"
_ENDPOINTS = (
    b"endpoint=0x7fb398001880, args={grpc.experimental.event_engine=0x56156e7ca410, "
    b"grpc.internal.endpoint_local_address=ipv4:127.0.0.1:33543, "
    b"grpc.internal.endpoint_peer_address=ipv4:127.0.0.1:55814, %s}, read_buffer.Length()=0, exit_early=0"
)
OF_SERVER = _ENDPOINTS % b"grpc.internal.server_credentials=0x56156e7c3ca0"
OF_CHANNEL = _ENDPOINTS % b"grpc.internal.channel_credentials=0x56156e7dd840, grpc.server_uri=dns:///127.0.0.1:33543"
_SSL = b"UNKNOWN: Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:%s: OK"
_VERIFY = b"1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: "
EXPIRED = _SSL % (_VERIFY + b"certificate has expired")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            _SSL % b"100000c0:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate "
            b"verification context",
            "NO_CLIENT_CERTIFICATE",
        ),
        (EXPIRED, "CERTIFICATE_EXPIRED"),
        (_SSL % (_VERIFY + b"certificate is not yet valid"), "CERTIFICATE_NOT_YET_VALID"),
        (_SSL % (_VERIFY + b"unable to get local issuer certificate"), "UNKNOWN_AUTHORITY"),
        (_SSL % (_VERIFY + b"self signed certificate in certificate chain"), "UNKNOWN_AUTHORITY"),
        (
            _SSL % b"1a000064:ECDSA routines:OPENSSL_internal:BAD_SIGNATURE: certificate signature failure",
            "UNKNOWN_AUTHORITY",
        ),
        (_SSL % (_VERIFY + b"unsupported certificate purpose"), "CERTIFICATE_UNUSABLE"),
        (
            _SSL % b"1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST: Invalid certificate verification context",
            "NOT_TLS",
        ),
        (_SSL % b"100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: Invalid", "NOT_TLS"),
        (_SSL % b"10000418:SSL routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA: Invalid", "REFUSED_BY_CALLER"),
        (b"UNAVAILABLE: Handshake read failed (Socket closed)", "ABANDONED"),
        (b"UNKNOWN: Something new", "HANDSHAKE_FAILED"),
    ],
)
def test_why_a_handshake_failed(error: bytes, reason: str) -> None:
    found = failed_handshake(_STEP % (error, OF_SERVER))
    assert found == (reason, "ipv4:127.0.0.1:33543", "ipv4:127.0.0.1:55814")


@pytest.mark.parametrize(
    "line",
    [
        _STEP % (EXPIRED, OF_CHANNEL),
        _STEP % (b"OK", OF_SERVER),
        _START + b"channel_trace.h:396] handshake manager 0x7fb3: Failed with error: " + EXPIRED,
        # What others write to the stream is not believed.
        b"said: " + _STEP % (EXPIRED, OF_SERVER),
        b"",
    ],
)
def test_what_is_no_failure_of_a_callers_handshake(line: bytes) -> None:
    assert failed_handshake(line) is None


def test_lines_of_the_tracer_are_known_and_others_are_not() -> None:
    assert is_handshake_step(_START + b"handshaker.cc:80] handshake_manager 0x7fc5: adding handshaker security")
    assert is_handshake_step(_START + b"channel_trace.h:396] handshake manager 0x7fc5:  calling handshaker security")
    assert not is_handshake_step(_START + b"channel_trace.h:396] Channel created")
    assert not is_handshake_step(_START + b"ssl_transport_security.cc:2160] Handshake failed with error")


def test_what_has_no_severity_is_shown_to_everybody() -> None:
    assert severity(_START + b"chttp2_transport.cc:1] GOAWAY") == b"I"
    assert severity(b"E1122 22:23:48.922039    9445 server.cc:7] no port") == b"E"
    assert severity(b"Fatal Python error: Aborted") == b"F"
