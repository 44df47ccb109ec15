use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

use super::*;

/// More than this server ever takes in advance.
const PIPE: usize = 1 << 16;

/// A connection that answers everything with this text, and its client's end.
fn connect(pipe: usize, text: &str) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = duplex(pipe);
    let text = text.to_owned();
    let answer = move |_: &Request<Incoming>| Response::new(text.clone());
    (client, spawn_local(serve(server, answer)))
}

/// Runs a test in which waiting takes no time.
fn in_virtual_time(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn one_connection_carries_one_request_after_another() {
    in_virtual_time(async {
        let (mut client, _connection) = connect(PIPE, "well");
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\nwell") {
                assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0);
            }
            assert!(seen.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
    });
}

#[test]
fn a_client_that_says_nothing_or_half_a_head_is_sent_away() {
    in_virtual_time(async {
        for said in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: a\r\n"] {
            let began = Instant::now();
            let (mut client, connection) = connect(PIPE, "well");
            client.write_all(said.as_bytes()).await.unwrap();
            connection.await.unwrap();
            assert_eq!(began.elapsed().as_secs(), HEAD_TIME.as_secs(), "after {said:?}");
        }
    });
}

#[test]
fn a_head_that_drips_in_gets_no_more_time_than_one_that_does_not() {
    in_virtual_time(async {
        let began = Instant::now();
        let (mut client, connection) = connect(PIPE, "well");
        client.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        while client.write_all(b"y").await.is_ok() && !connection.is_finished() {
            sleep(Duration::from_secs(1)).await;
        }
        connection.await.unwrap();
        assert!(began.elapsed() <= HEAD_TIME + Duration::from_secs(1), "{:?}", began.elapsed());
    });
}

#[test]
fn a_client_that_does_not_read_its_answer_is_sent_away() {
    in_virtual_time(async {
        let began = Instant::now();
        // Of an answer of 100 kB, a pipe of 64 bytes holds the beginning.
        let (mut client, connection) = connect(64, &"x".repeat(100_000));
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        connection.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), (LIFETIME + LAST_ANSWER_TIME).as_secs());
    });
}

#[test]
fn a_busy_connection_ends_between_two_answers_when_its_life_is_over() {
    in_virtual_time(async {
        let (mut client, connection) = connect(PIPE, "well");
        let began = Instant::now();
        let mut answers = 0;
        let mut seen = Vec::new();
        while client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.is_ok() {
            seen.clear();
            while !seen.ends_with(b"\r\n\r\nwell") {
                if client.read_buf(&mut seen).await.unwrap() == 0 {
                    assert!(seen.is_empty(), "an answer was cut");
                    break;
                }
            }
            if seen.is_empty() {
                break;
            }
            answers += 1;
            sleep(Duration::from_secs(1)).await;
        }
        connection.await.unwrap();
        assert!((55..=61).contains(&answers), "{answers} answers in {:?}", began.elapsed());
    });
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    in_virtual_time(async {
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_BYTES_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
        for head in [long, many] {
            let (mut client, connection) = connect(PIPE, "well");
            client.write_all(head.as_bytes()).await.unwrap();
            let mut seen = String::new();
            client.read_to_string(&mut seen).await.unwrap();
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.to_string();
            assert!(seen.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{seen}");
            connection.await.unwrap();
        }
    });
}

#[test]
fn a_body_is_not_read() {
    in_virtual_time(async {
        let began = Instant::now();
        let (mut client, connection) = connect(PIPE, "well");
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
        let mut sent = 0;
        while client.write_all(&[b'x'; 1024]).await.is_ok() {
            sent += 1024;
        }
        connection.await.unwrap();
        // What is in the pipe is no more than that, and what hyper took to look at, its buffer.
        assert!(sent <= 2 * PIPE, "{sent} bytes were taken");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    });
}
