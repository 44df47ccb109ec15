//! One Lease, and who has it.

use std::{fs, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use leader::{NodeId, quorum::StepDownError};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::scene::{Candidate, LEASE, Scene, holder, kubeconfig, nobody, object, servers, text_with_server};

#[tokio::test]
async fn a_candidate_takes_the_lease_renews_it_and_gives_it_back() {
    let Some(scene) = Scene::open("alone").await else { return };
    let node = scene.start("a");
    node.handle.set_remark(Some("since noon"));
    node.leads().await;

    let lease = scene.lease("it is in the Lease", |lease| holder(lease) == "a").await;
    let spec = lease.spec.unwrap();
    assert_eq!(spec.lease_duration_seconds, Some(2));
    let renewed = spec.renew_time.unwrap();
    let is_later = |lease: &k8s_openapi::api::coordination::v1::Lease| {
        lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).is_some_and(|time| time.0 > renewed.0)
    };
    let lease = scene.lease("it is renewed", is_later).await;
    let notes = lease.metadata.annotations.unwrap();
    assert_eq!(notes["example.com/who"], "a test");
    assert!(notes.values().any(|note| note.ends_with("since noon")), "{notes:?}");

    let status = node.tells("it watches", |status| status.watching).await;
    assert_eq!(status.lease, format!("kube-system/{}", scene.lease_name()));
    assert_eq!(status.identity, NodeId::new("a").unwrap());
    assert_eq!(status.server, Some(servers()[0]));
    assert_eq!(status.credentials, Some(kubeconfig().display().to_string()));
    assert_eq!(status.trouble, None);
    assert!(status.failures <= 1, "what is asked before there are credentials");
    assert!(status.requests >= 2 && status.renewed.is_some());
    let status =
        node.tells("it knows that it holds it", |status| status.holder.as_deref() == Some("a")).await;
    let asked = status.requests;
    node.tells("it goes on", |status| status.requests > asked + 2).await;

    node.ends().await;
    scene.lease("it is given back", |lease| holder(lease).is_empty()).await;
}

#[tokio::test]
async fn a_lease_that_is_given_back_is_taken_by_who_watches_it_and_long_before_its_end() {
    let Some(scene) = Scene::open("given-back").await else { return };
    let [first, second] = scene.pair().await;
    second.tells("it watches", |status| status.watching && status.holder.as_deref() == Some("a")).await;
    let before = second.monitor.status().borrow().transitions;

    let began = Instant::now();
    first.ends().await;
    second.leads().await;
    assert!(began.elapsed() < LEASE, "took {:?}", began.elapsed());
    second.tells("it has changed hands", |status| status.transitions > before).await;
    second.ends().await;
}

#[tokio::test]
async fn a_leader_that_steps_down_gives_the_lead_to_the_other() {
    let Some(scene) = Scene::open("step-down").await else { return };
    let first = scene.start("a");
    first.leads().await;
    assert_eq!(first.handle.step_down(Some(NodeId::new("a").unwrap())).await, Err(StepDownError::Itself));
    let second = scene.start("b");
    second.follows("a").await;
    assert_eq!(second.handle.step_down(None).await, Err(StepDownError::NotLeader));

    first.handle.step_down(None).await.unwrap();
    second.leads().await;
    first.follows("b").await;
    first.ends().await;
    second.ends().await;
}

#[tokio::test]
async fn a_leader_that_can_serve_no_more_gives_the_lead_to_one_that_can() {
    let Some(scene) = Scene::open("ineligible").await else { return };
    let [first, second] = scene.pair().await;
    first.handle.set_successor(Some(NodeId::new("b").unwrap()));
    first.handle.set_eligible(false);
    second.leads().await;
    first.follows("b").await;
    first.ends().await;
    second.ends().await;
}

#[tokio::test]
async fn what_others_do_to_the_lease_is_seen_at_once() {
    let Some(scene) = Scene::open("others").await else { return };
    let node = scene.leader().await;
    node.tells("it watches", |status| status.watching).await;

    let leases = scene.leases();
    leases.delete(scene.lease_name(), &DeleteParams::default()).await.unwrap();
    scene.lease("it is there again", |lease| holder(lease) == "a").await;
    node.leads().await;

    let taken = json!({"spec": {"holderIdentity": "x", "leaseTransitions": 70}});
    leases.patch(scene.lease_name(), &PatchParams::default(), &Patch::Merge(taken)).await.unwrap();
    node.follows("x").await;
    let status = node.tells("it says who", |status| status.holder.as_deref() == Some("x")).await;
    assert_eq!(status.transitions, 70);
    // Which is no sign of life for longer than the Lease says.
    node.leads().await;
    node.tells("it has it back", |status| status.transitions == 71).await;
    node.ends().await;
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_named_and_needs_no_restart() {
    let Some(scene) = Scene::open("nowhere").await else { return };
    let name = format!("nowhere-{}", std::process::id());
    let mut config = scene.config("a");
    config.namespace.clone_from(&name);
    let node = Candidate::start(config);
    node.complains(&format!("404, there is no namespace {name} for the Lease: make it, or name another"))
        .await;
    assert!(!node.is_leader());

    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let namespace = object(json!({"metadata": {"name": name}}));
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    node.leads().await;
    node.tells("it is over", |status| status.trouble.is_none()).await;
    node.ends().await;
}

#[tokio::test]
async fn a_leader_whose_lease_is_its_own_renews_it_and_reads_nothing_else() {
    let Some(scene) = Scene::open("quiet").await else { return };
    let node = scene.leader().await;
    node.tells("it watches", |status| status.watching).await;
    let before = node.monitor.status().borrow().requests;
    sleep(5 * LEASE).await;
    // Every half second.
    let requests = node.monitor.status().borrow().requests - before;
    assert!((10..=25).contains(&requests), "{requests} requests in {:?}", 5 * LEASE);
    node.ends().await;
}

#[tokio::test]
async fn one_that_can_reach_nobody_stops_within_its_bound() {
    let Some(scene) = Scene::open("unreachable").await else { return };
    let mut config = scene.config("a");
    config.access.own = nobody();
    config.access.servers.clear();
    // Nor does the file name one.
    let path = scene.folder.join("elsewhere.conf");
    fs::write(&path, text_with_server("10.0.0.163:1")).unwrap();
    config.access.kubeconfigs = vec![path];
    let node = Candidate::start(config);
    node.complains("10.0.0.163:1: ").await;
    let status = node.tells("it counts", |status| status.failures > 1).await;
    assert_eq!((status.server, status.holder), (None, None));
    let began = Instant::now();
    node.ends().await;
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}
