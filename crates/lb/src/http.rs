//! As much of HTTP/1.1 (RFC 9112) as a health check needs: one request, and where its answer ends.
//!
//! The whole answer is collected and parsed again from its start when more arrives; it is bounded, and mostly
//! one segment. A library for this would be larger than these lines, and would still leave the body's length
//! to us.

/// Most bytes of status line and headers; servers themselves rarely accept more.
pub(crate) const HEAD: usize = 8 * 1024;

/// Most bytes of a whole answer. A failing `/readyz` lists each check in a line, a few kilobytes in all.
pub(crate) const ANSWER: usize = 64 * 1024;

/// A complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status code, 200 to 999.
    pub(crate) status: u16,
    /// True when the connection can carry another request.
    pub(crate) reusable: bool,
}

/// How far an answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing decided yet.
    Head,
    /// The status is known, the body has not ended.
    Body(Answer),
    /// All of it is there.
    Complete(Answer),
}

/// Why bytes are not an HTTP answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the answer is not HTTP/1")]
    NotHttp,
    #[error("the answer's headers are longer than 8 KiB")]
    TooLong,
    #[error("the answer's headers are malformed")]
    Header,
    #[error("the answer's body is malformed")]
    Body,
}

/// How the end of a body is known (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    /// The connection's end is the body's end.
    UntilClose,
}

/// The request for `path` on `authority` (host and port).
pub(crate) fn request(path: &str, authority: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: vipd-health\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}

/// Reads the answer to one GET from the start of all that came back so far.
pub(crate) fn parse(mut bytes: &[u8]) -> Result<Progress, Malformed> {
    let mut left = HEAD;
    loop {
        let Some(head) = split_head(bytes, left)? else { return Ok(Progress::Head) };
        let body = &bytes[head.len()..];
        let (status, version_reusable) = parse_status(head)?;
        let (framing, reusable) = parse_headers(head, version_reusable)?;
        if (100..200).contains(&status) {
            // Interim (RFC 9110 §15.2): the real answer follows.
            left -= head.len();
            bytes = body;
            continue;
        }
        let bodiless = status == 204 || status == 304;
        let framing = if bodiless { Framing::Length(0) } else { framing };
        let answer = Answer { status, reusable: reusable && framing != Framing::UntilClose };
        return body_progress(body, framing, answer);
    }
}

/// Everything up to and including the empty line, or `None` while it has not come.
fn split_head(bytes: &[u8], most: usize) -> Result<Option<&[u8]>, Malformed> {
    let known = bytes.len().min(b"HTTP/1.".len());
    if bytes[..known] != b"HTTP/1."[..known] {
        return Err(Malformed::NotHttp);
    }
    match bytes.windows(4).take(most).position(|window| window == b"\r\n\r\n") {
        Some(at) if at + 4 <= most => Ok(Some(&bytes[..at + 4])),
        Some(_) => Err(Malformed::TooLong),
        None if bytes.len() >= most => Err(Malformed::TooLong),
        None => Ok(None),
    }
}

/// The status code, and whether this version keeps connections by default.
fn parse_status(head: &[u8]) -> Result<(u16, bool), Malformed> {
    // "HTTP/1.1 200 …": `split_head` has seen the first seven bytes.
    let (Some(minor), Some(b' '), Some(digits)) = (head.get(7), head.get(8), head.get(9..12)) else {
        return Err(Malformed::NotHttp);
    };
    if !minor.is_ascii_digit()
        || !digits.iter().all(u8::is_ascii_digit)
        || !matches!(head.get(12), Some(b' ' | b'\r'))
    {
        return Err(Malformed::NotHttp);
    }
    let status = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    if status < 100 { Err(Malformed::NotHttp) } else { Ok((status, *minor != b'0')) }
}

fn parse_headers(head: &[u8], mut reusable: bool) -> Result<(Framing, bool), Malformed> {
    let mut length = None;
    let mut chunked = false;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed::Header)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = decimal(value).ok_or(Malformed::Header)?;
            if length.replace(number).is_some_and(|earlier| earlier != number) {
                return Err(Malformed::Header);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            chunked = has_token(value, b"chunked");
            if !chunked {
                reusable = false;
            }
        } else if name.eq_ignore_ascii_case(b"connection") && has_token(value, b"close") {
            reusable = false;
        }
    }
    let framing = match (chunked, length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    Ok((framing, reusable))
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

fn decimal(digits: &[u8]) -> Option<usize> {
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    valid.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

fn body_progress(body: &[u8], framing: Framing, answer: Answer) -> Result<Progress, Malformed> {
    let excess = |end: usize| Answer { reusable: answer.reusable && body.len() == end, ..answer };
    match framing {
        Framing::UntilClose => Ok(Progress::Body(answer)),
        Framing::Length(length) if body.len() < length => Ok(Progress::Body(answer)),
        // Bytes after the end answer nothing we asked; such a connection is not used again.
        Framing::Length(length) => Ok(Progress::Complete(excess(length))),
        Framing::Chunked => Ok(match chunked_end(body)? {
            Some(end) => Progress::Complete(excess(end)),
            None => Progress::Body(answer),
        }),
    }
}

/// Where a chunked body (RFC 9112 §7.1) ends, or `None` while it has not.
fn chunked_end(body: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut at = 0;
    loop {
        let Some(line) = line_at(body, at) else { return Ok(None) };
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        // Seven hexadecimal digits are far beyond `ANSWER` and can't overflow.
        if digits.is_empty() || digits.len() > 7 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Malformed::Body);
        }
        let text = std::str::from_utf8(digits).map_err(|_| Malformed::Body)?;
        let size = usize::from_str_radix(text, 16).map_err(|_| Malformed::Body)?;
        at += line.len() + 2;
        if size == 0 {
            return Ok(trailers_end(body, at));
        }
        match body.get(at + size..at + size + 2) {
            Some(b"\r\n") => at += size + 2,
            Some(_) => return Err(Malformed::Body),
            None => return Ok(None),
        }
    }
}

/// Where the trailer section that begins at `at` ends.
fn trailers_end(body: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let line = line_at(body, at)?;
        at += line.len() + 2;
        if line.is_empty() {
            return Some(at);
        }
    }
}

/// The line that begins at `at`, without its end; `None` while it has not ended.
fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some(&rest[..end])
}

#[cfg(test)]
mod tests;
