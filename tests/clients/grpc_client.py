"""A gRPC client of another make. Arguments: target, then the name of a scenario. Exits with 1 and says why if it fails."""

import sys
import threading

import grpc


def outcome(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")


def all_kinds(channel):
    unary = channel.unary_unary("/test.Echo/Unary")
    answer, call = unary.with_call(b"hello", timeout=10)
    assert answer == b"hello", answer
    assert ("x-first", "1") in [(m.key, m.value) for m in call.initial_metadata()], call.initial_metadata()
    assert ("x-last", "2") in [(m.key, m.value) for m in call.trailing_metadata()], call.trailing_metadata()
    stream = channel.unary_stream("/test.Echo/ServerStream")
    assert list(stream(b"100", timeout=10)) == [b"%d" % n for n in range(100)]
    upload = channel.stream_unary("/test.Echo/ClientStream")
    assert upload(iter([b"x" * 1000] * 500), timeout=20) == b"500000"
    both = channel.stream_stream("/test.Echo/Both")
    sent = [b"%d" % n for n in range(200)]
    assert list(both(iter(sent), timeout=20)) == sent
    error = outcome(lambda: unary(b"fail", timeout=10))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not today: 50 %", error
    assert ("x-last", "2") in [(m.key, m.value) for m in error.trailing_metadata()]
    error = outcome(lambda: channel.unary_unary("/test.Echo/Missing")(b"", timeout=10))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def conversation(channel):
    """Each message is answered before the next one is sent."""
    asked, answered = threading.Semaphore(1), []

    def requests():
        for number in range(20):
            assert asked.acquire(timeout=10)
            yield b"%d" % number

    for answer in channel.stream_stream("/test.Echo/Both")(requests(), timeout=30):
        answered.append(answer)
        asked.release()
    assert answered == [b"%d" % n for n in range(20)], answered


def bidi_16_mib(channel):
    part = bytes(1 << 20)
    call = channel.stream_stream("/test.Echo/Both")(iter([part] * 16), timeout=60)
    assert sum(len(answer) for answer in call) == 16 << 20


def refused(channel):
    expected = dict(pair.split("=") for pair in sys.argv[3:])
    for method, code in expected.items():
        error = outcome(lambda: channel.unary_unary(method)(bytes(5 << 20) if "Large" in method else b"slow", timeout=20))
        assert error.code().name == code, (method, code, error)
        assert "(" in error.details(), error
        assert any(m.key == "x-request-id" for m in error.initial_metadata() + error.trailing_metadata()), error


def main():
    options = [
        ("grpc.max_receive_message_length", 64 << 20),
        ("grpc.max_send_message_length", 64 << 20),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
    ]
    with grpc.insecure_channel(sys.argv[1], options=options) as channel:
        {"all_kinds": all_kinds, "conversation": conversation, "bidi_16_mib": bidi_16_mib, "refused": refused}[
            sys.argv[2]
        ](channel)
    print("ok")


main()
