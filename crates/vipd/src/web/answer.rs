//! What is asked, and what is answered.

use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
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

/// What a node is asked for by another: its own status, without what others say.
pub(super) const OWN_STATUS: &str = "/status.json?own";

/// The query of that.
const ALONE: &str = "own";

/// The media type of an exposition, as the standard has it.
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The page may load its own style and script and ask its own server, and nothing else; nobody may frame it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The files of the page.
fn file(path: &str) -> Option<Page> {
    let (media, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("page/page.js")),
        _ => return None,
    };
    Some(Page::File(HeaderValue::from_static(media), text))
}

/// What a browser may do with a file of the page.
fn of_the_page(mut response: Response<String>) -> Response<String> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// What a path stands for.
enum Page {
    Metrics,
    Status,
    /// Of the page for people, with its media type.
    File(HeaderValue, &'static str),
    Live(&'static str),
    Ready,
}

/// Answers one request. Looks at every source once, and waits for nothing.
pub(super) fn answer(site: Site, sources: &Sources, method: &Method, uri: &Uri) -> Response<String> {
    let page = match (site, uri.path()) {
        (_, "/livez") => Some(Page::Live("livez")),
        (_, "/healthz") => Some(Page::Live("healthz")),
        (_, "/readyz") => Some(Page::Ready),
        (Site::MetricsAndHealth, "/metrics") => Some(Page::Metrics),
        (Site::MetricsAndHealth, "/status.json") => Some(Page::Status),
        (Site::MetricsAndHealth, path) => file(path),
        (Site::HealthAlone, _) => None,
    };
    let Some(page) = page else {
        return respond(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned());
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
        Page::Status => {
            let alone = uri.query() == Some(ALONE);
            let snapshot = if alone { sources.reporter.own() } else { sources.reporter.snapshot() };
            return match serde_json::to_string(&snapshot) {
                Ok(text) => respond(StatusCode::OK, JSON, text),
                Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            };
        }
        Page::File(media, text) => return of_the_page(respond(StatusCode::OK, media, text.to_owned())),
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
