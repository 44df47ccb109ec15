//! One connection, bounded in every way that a client could stretch it.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

/// How long a client may take over the head of a request; also how long a connection may be idle between two. A scrape or
/// a probe is one packet.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a connection may live, whatever it does: a client that reads its answer byte by byte ends here.
const LIFETIME: Duration = Duration::from_secs(60);

/// How long an answer that is being sent at the end of a connection's life may go on.
const LAST_ANSWER_TIME: Duration = Duration::from_secs(5);

/// The largest head of a request, in bytes: the smallest buffer that hyper works with. Prometheus sends 300.
const HEAD_BYTES_MAX: usize = 8192;

/// The most header lines; Prometheus sends half a dozen.
const HEADERS_MAX: usize = 64;

/// Answers the requests of one client, until it goes or its time is over. Bodies of requests are not read. May be
/// cancelled at any await; the client sees the connection end.
pub(super) async fn serve<T, A>(stream: T, answer: A)
where
    T: AsyncRead + AsyncWrite + Unpin,
    A: Fn(&Request<Incoming>) -> Response<String>,
{
    let service = service_fn(|request| {
        let answer = answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // What clients do wrong is their business: hyper has answered them where an answer was possible.
    tokio::select! {
        _ = &mut connection => return,
        () = sleep(LIFETIME) => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(LAST_ANSWER_TIME, connection).await;
}

#[cfg(test)]
mod tests;
