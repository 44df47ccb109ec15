use proptest::prelude::*;

use super::*;

fn complete(status: u16, reusable: bool) -> Result<Progress, Malformed> {
    Ok(Progress::Complete(Answer { status, reusable }))
}

#[test]
fn a_request_names_host_and_path() {
    let request = request("/readyz", "[2001:db8::1]:6443");
    assert!(request.starts_with(b"GET /readyz HTTP/1.1\r\nHost: [2001:db8::1]:6443\r\n"));
    assert!(request.ends_with(b"\r\n\r\n"));
}

#[test]
fn a_body_of_known_length_is_awaited() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  2 \r\n\r\nok";
    assert_eq!(parse(answer), complete(200, true));
    let cut = &answer[..answer.len() - 1];
    assert_eq!(parse(cut), Ok(Progress::Body(http_answer(200, true))));
}

fn http_answer(status: u16, reusable: bool) -> Answer {
    Answer { status, reusable }
}

#[test]
fn chunks_extensions_and_trailers_are_followed() {
    let head = b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let body = b"3;name=value\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
    assert_eq!(parse(&[&head[..], body].concat()), complete(500, true));
    for end in 0..body.len() {
        let progress = parse(&[&head[..], &body[..end]].concat());
        assert_eq!(progress, Ok(Progress::Body(http_answer(500, true))), "{end} bytes of the body");
    }
    for broken in [&b"x\r\n"[..], b"\r\n", b"fffffffff\r\n", b"1\r\nabc"] {
        assert_eq!(parse(&[&head[..], broken].concat()), Err(Malformed::Body));
    }
}

#[test]
fn a_connection_that_ends_or_holds_more_is_not_used_again() {
    assert_eq!(
        parse(b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n"),
        complete(200, false)
    );
    assert_eq!(parse(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"), complete(200, false));
    assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore"), complete(200, false));
    let until_close = parse(b"HTTP/1.1 200 OK\r\n\r\nwhatever");
    assert_eq!(until_close, Ok(Progress::Body(http_answer(200, false))));
}

#[test]
fn interim_answers_are_passed_over() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
    assert_eq!(parse(answer), complete(204, true));
    assert_eq!(parse(&answer[..30]), Ok(Progress::Head));
    assert_eq!(parse(&b"HTTP/1.1 100 C\r\n\r\n".repeat(1000)), Err(Malformed::TooLong));
}

#[test]
fn nonsense_is_named() {
    for nonsense in
        [&b"SSH-2.0-x\r\n"[..], b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1 2000\r\n\r\n", b"HTTP/1.1 099 X\r\n\r\n"]
    {
        assert_eq!(parse(nonsense), Err(Malformed::NotHttp), "{}", nonsense.escape_ascii());
    }
    for header in
        ["nocolon", "Content-Length: -1", "Content-Length: 1\r\nContent-Length: 2", "Content-Length:"]
    {
        let answer = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n");
        assert_eq!(parse(answer.as_bytes()), Err(Malformed::Header), "{header}");
    }
}

#[test]
fn headers_have_a_bound() {
    let mut answer = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    answer.resize(HEAD - 1, b'x');
    assert_eq!(parse(&answer), Ok(Progress::Head));
    answer.push(b'x');
    assert_eq!(parse(&answer), Err(Malformed::TooLong));
    answer.truncate(HEAD - 26);
    answer.extend_from_slice(b"\r\nContent-Length: 0000\r\n\r\n");
    assert_eq!(answer.len(), HEAD);
    assert_eq!(parse(&answer), complete(200, true));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
        let _ = parse(&[&b"HTTP/1.1 200 OK\r\n"[..], &bytes].concat());
        let _ = parse(&[&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &bytes].concat());
    }

    #[test]
    fn an_answer_is_complete_exactly_at_its_last_byte(status in 200_u16..600, body in "[a-z]{0,50}", chunked: bool) {
        prop_assume!(status != 204 && status != 304);
        let answer = if chunked && !body.is_empty() {
            format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
        } else {
            format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        for end in 0..answer.len() {
            prop_assert!(!matches!(parse(&answer.as_bytes()[..end]), Ok(Progress::Complete(_)) | Err(_)));
        }
        prop_assert_eq!(parse(answer.as_bytes()), complete(status, true));
    }
}
