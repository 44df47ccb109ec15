//! Where the control-plane nodes and the apiservers are, and what is remembered of it.

use std::{collections::BTreeSet, fs, time::Duration};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use leader::kubernetes::{Access, ControlPlane, Discovery};
use serde_json::json;
use tokio::time::timeout;

use crate::scene::{Candidate, Scene, eventually, nobody, object, servers, until};

/// Makes a node of the control plane.
async fn add(client: &Client, name: &str, address: &str) {
    let nodes: Api<Node> = Api::all(client.clone());
    let labels = json!({"node-role.kubernetes.io/control-plane": ""});
    let node = object(json!({"metadata": {"name": name, "labels": labels}}));
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

fn has(known: &ControlPlane, name: &str) -> bool {
    known.nodes.get(name).is_some_and(|ips| ips.contains(&servers()[1].ip()))
}

#[tokio::test]
async fn control_plane_nodes_are_seen_as_they_come_are_cordoned_and_go_and_are_remembered() {
    let Some(scene) = Scene::open("nodes").await else { return };
    let name = format!("cp-{}", std::process::id());
    let memory = scene.folder.join("state").join("nodes.json");
    let mut config = scene.config("a");
    // The address of this one is found by the node alone.
    config.access.servers.clear();
    config.access.memory = Some(memory.clone());
    let node = Candidate::start(config.clone());
    node.leads().await;
    let nodes: Api<Node> = Api::all(scene.client.clone());
    add(&scene.client, &name, &servers()[1].ip().to_string()).await;
    // A list that is empty is no control plane, and changes nothing: one stays.
    let other = format!("{name}-other");
    add(&scene.client, &other, &servers()[2].ip().to_string()).await;
    let known = || node.monitor.control_plane();
    until("it is seen", known(), |known| has(known, &name)).await;
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch(&name, &PatchParams::default(), &cordon).await.unwrap();
    until("it is cordoned", known(), |known| known.cordoned.contains(&name)).await;
    let written = || fs::read_to_string(&memory).unwrap_or_default();
    eventually("it is remembered", async || written().contains(&name).then_some(())).await;
    node.ends().await;

    // A start without its own apiserver: what is remembered leads to another.
    config.access.own = nobody();
    let node = Candidate::start(config.clone());
    assert!(has(&node.monitor.control_plane().borrow(), &name));
    node.leads().await;
    node.tells("it is the remembered one", |status| status.server == Some(servers()[1])).await;
    nodes.delete(&name, &DeleteParams::default()).await.unwrap();
    until("it is gone", node.monitor.control_plane(), |known| !known.nodes.contains_key(&name)).await;
    assert!(node.monitor.control_plane().borrow().nodes.contains_key(&other));
    nodes.delete(&other, &DeleteParams::default()).await.unwrap();
    node.ends().await;

    // Nor does a file that is no memory keep anybody from starting.
    fs::write(&memory, "[7]").unwrap();
    config.access.own = servers()[0];
    let node = Candidate::start(config);
    assert!(node.monitor.control_plane().borrow().nodes.is_empty());
    node.leads().await;
    node.ends().await;
}

#[tokio::test]
async fn the_apiservers_are_known_by_their_own_word_and_remembered() {
    let Some(scene) = Scene::open("endpoints").await else { return };
    let admin = scene.file_of("admin");
    let memory = scene.folder.join("apiservers.json");
    let access = Access { memory: Some(memory.clone()), own: nobody(), ..scene.access(&[&admin]) };
    let (discovery, known) = Discovery::new(access.clone(), "a test");
    assert!(known.borrow().apiservers.is_empty());
    let following = tokio::spawn(discovery.run());
    let all = BTreeSet::from(servers());
    until("all are known", known, |known| known.apiservers == all).await;
    let written = || fs::read_to_string(&memory).unwrap_or_default();
    let all_written = || all.iter().all(|server| written().contains(&server.to_string()));
    eventually("they are remembered", async || all_written().then_some(())).await;
    following.abort();

    // With what is remembered alone.
    let (discovery, known) = Discovery::new(Access { servers: Vec::new(), ..access.clone() }, "a test");
    assert_eq!(known.borrow().apiservers, all);
    drop(discovery);

    // Those who may not look find nothing, and go on.
    let stranger = scene.file_of("stranger");
    let access = Access { kubeconfigs: vec![stranger], memory: None, ..access };
    let (discovery, known) = Discovery::new(access, "a test");
    let looking = timeout(Duration::from_secs(2), discovery.run()).await;
    assert!(looking.is_err(), "nothing ends it");
    assert!(known.borrow().apiservers.is_empty());
}
