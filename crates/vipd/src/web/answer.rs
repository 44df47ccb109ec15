//! What is asked, and what is answered.

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Response, StatusCode, Uri};

use super::health;
use super::metrics;
use crate::daemon::Pulse;
use crate::status::Reporter;

/// What is looked at to answer.
#[derive(Clone)]
pub(crate) struct Sources {
    /// The state of all parts.
    pub(crate) reporter: Reporter,
    /// The main loop's sign of life.
    pub(crate) pulse: Pulse,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// Everything.
    MetricsAndHealth,
    /// The health paths.
    HealthAlone,
}

/// The media type of an exposition, as the standard has it.
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What a path stands for.
enum Page {
    Metrics,
    Live(&'static str),
    Ready,
}

/// Answers one request. Looks at every source once, and waits for nothing.
pub(super) fn answer(site: Site, sources: &Sources, method: &Method, uri: &Uri) -> Response<String> {
    let page = match (site, uri.path()) {
        (Site::MetricsAndHealth, "/metrics") => Page::Metrics,
        (_, "/livez") => Page::Live("livez"),
        (_, "/healthz") => Page::Live("healthz"),
        (_, "/readyz") => Page::Ready,
        (Site::MetricsAndHealth | Site::HealthAlone, _) => {
            return respond(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned());
        }
    };
    // hyper sends no body in answer to HEAD.
    if ![Method::GET, Method::HEAD].contains(method) {
        let mut refusal = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let silence = sources.pulse.silence();
    let verbose = uri.query().is_some_and(|query| query.split('&').any(is_verbose));
    let (name, checks) = match page {
        Page::Metrics => {
            return match metrics::exposition(sources.reporter.own()) {
                Ok(text) => respond(StatusCode::OK, OPENMETRICS, text),
                Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            };
        }
        Page::Live(name) => (name, health::live(silence)),
        Page::Ready => ("readyz", health::ready(&sources.reporter.own().vitals(silence))),
    };
    let (well, text) = health::report(name, &checks, verbose);
    respond(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, TEXT, text)
}

/// `verbose`, with a value or without, as kube-apiserver takes it.
fn is_verbose(parameter: &str) -> bool {
    parameter.split('=').next() == Some("verbose")
}

fn respond(status: StatusCode, media: HeaderValue, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, media);
    // A cached answer about health is a wrong one.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
