//! Watches: of the Lease, so that a release is seen in milliseconds, and of the control-plane nodes.

use std::{net::SocketAddr, time::Duration};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{access::Place, failure::Failure, nodes::ControlPlane};

/// The server that watches are open at. A new value, also of the same server, opens them anew.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) server: SocketAddr,
    pub(super) client: Client,
}

/// What the watch of the Lease tells.
pub(super) enum News {
    /// It is open; states follow.
    Open,
    Is(Box<Lease>),
    Deleted,
    /// It has ended; another try follows by itself.
    Ended(Option<(SocketAddr, Failure)>),
}

/// News wait for the driver no longer than a request's answer; more than these are a watch gone wild, which waits.
pub(super) const NEWS_MAX: usize = 16;

/// After this time a server ends a watch (the client's own default), and it is opened anew.
const WATCH_SECONDS: u32 = 290;

/// Waits for the opening of a watch.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

/// Nodes come and go in minutes.
const NODES_RETRY: Duration = Duration::from_secs(10);
/// Rights to see nodes are given by a person.
const NODES_FORBIDDEN_RETRY: Duration = Duration::from_secs(60);

/// Keeps a watch of the Lease open at the route's server, for ever. May be cancelled at any point.
pub(super) async fn lease(
    mut route: watch::Receiver<Option<Route>>,
    place: Place,
    retry: Duration,
    news: mpsc::Sender<News>,
) {
    loop {
        let Some(Route { server, client }) = current(&mut route).await else { return };
        let api: Api<Lease> = Api::namespaced(client, &place.namespace);
        let params =
            WatchParams::default().fields(&format!("metadata.name={}", place.name)).timeout(WATCH_SECONDS);
        // Without a version, a watch begins with the state as the store has it.
        let opened = timeout(OPEN_PATIENCE, api.watch(&params, "")).await;
        let ended = match opened {
            Err(_) => Some(Failure::timed_out()),
            Ok(Err(error)) => Some(Failure::of(&error)),
            Ok(Ok(stream)) => {
                let followed = async {
                    if news.send(News::Open).await.is_err() {
                        return None;
                    }
                    follow(stream.boxed(), &news).await
                };
                tokio::select! {
                    ended = followed => ended,
                    _ = route.changed() => {
                        route.mark_changed();
                        None
                    }
                }
            }
        };
        if news.send(News::Ended(ended.map(|failure| (server, failure)))).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(retry) => {}
            changed = route.changed() => {
                if changed.is_err() {
                    return;
                }
                route.mark_changed();
            }
        }
    }
}

/// Passes on what a watch tells until it ends; the failure, if it ended by one.
async fn follow(
    mut stream: impl Stream<Item = kube::Result<WatchEvent<Lease>>> + Unpin,
    news: &mpsc::Sender<News>,
) -> Option<Failure> {
    loop {
        let told = match stream.try_next().await {
            Ok(Some(WatchEvent::Added(lease) | WatchEvent::Modified(lease))) => News::Is(Box::new(lease)),
            Ok(Some(WatchEvent::Deleted(_))) => News::Deleted,
            Ok(Some(WatchEvent::Bookmark(_))) => continue,
            // Most often 410: the version is too old. It is opened anew without one.
            Ok(Some(WatchEvent::Error(status))) => return Some(Failure::of(&kube::Error::Api(status))),
            Ok(None) => return None,
            Err(error) => return Some(Failure::of(&error)),
        };
        if news.send(told).await.is_err() {
            return None;
        }
    }
}

/// Keeps the control-plane nodes known, for ever. May be cancelled at any point.
pub(super) async fn nodes(mut route: watch::Receiver<Option<Route>>, found: watch::Sender<ControlPlane>) {
    let mut told = None;
    loop {
        let Some(Route { server, client }) = current(&mut route).await else { return };
        let followed = tokio::select! {
            followed = follow_nodes(Api::all(client), &found) => followed,
            changed = route.changed() => {
                if changed.is_err() {
                    return;
                }
                route.mark_changed();
                continue;
            }
        };
        let mut pause = NODES_RETRY;
        match followed {
            Ok(()) => told = None,
            Err(error) => {
                let failure = Failure::of(&error);
                if failure.kind == super::failure::Kind::Credentials {
                    pause = NODES_FORBIDDEN_RETRY;
                }
                if told.as_ref() != Some(&failure) {
                    tracing::warn!(%server, error = %failure, "failed to look at the control-plane nodes; what was known of them stays");
                }
                told = Some(failure);
            }
        }
        sleep(pause).await;
    }
}

/// Lists, then watches until the watch ends.
async fn follow_nodes(api: Api<Node>, found: &watch::Sender<ControlPlane>) -> kube::Result<()> {
    let list = api.list(&ListParams::default().labels(ControlPlane::LABEL)).await?;
    let version = list.metadata.resource_version.clone().unwrap_or_default();
    found.send_if_modified(|known| known.replace(&list.items));
    let params = WatchParams::default().labels(ControlPlane::LABEL).timeout(WATCH_SECONDS);
    let mut stream = api.watch(&params, &version).await?.boxed();
    while let Some(event) = stream.try_next().await? {
        match event {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                found.send_if_modified(|known| known.put(&node));
            }
            WatchEvent::Deleted(node) => {
                found.send_if_modified(|known| known.remove(&node));
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        }
    }
    Ok(())
}

/// The route, as soon as there is one; none when nobody gives any more.
async fn current(route: &mut watch::Receiver<Option<Route>>) -> Option<Route> {
    let found = route.wait_for(Option::is_some).await.ok()?.clone();
    route.mark_unchanged();
    found
}
