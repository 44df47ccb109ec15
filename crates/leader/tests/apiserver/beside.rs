//! What is written at the API beside an election.

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use leader::{
    kubernetes::{Access, EVENT_NAMESPACE, Event, RecordError, Recorder, Weight},
    lease::Stamp,
};
use serde_json::json;

use crate::scene::{Scene, nobody, object, servers};

fn event(node: &str) -> Event {
    Event {
        node: node.to_owned(),
        at: Stamp(1_900_000_000_000_000),
        serial: 7,
        weight: Weight::Warning,
        reason: "Tested",
        action: "Test",
        note: "all went its way".to_owned(),
        lease: Some(("kube-system".to_owned(), "a-lease".to_owned())),
    }
}

#[tokio::test]
async fn an_event_is_written_once_however_often_it_is_told() {
    let Some(scene) = Scene::open("event").await else { return };
    let (stranger, admin) = (scene.file_of("stranger"), scene.file_of("admin"));
    let node = format!("n-{}", std::process::id());
    let mut forbidden = Recorder::new(scene.access(&[&stranger]), "a test", None);
    let told = forbidden.tell(&event(&node)).await;
    assert!(matches!(&told, Err(RecordError::Forbidden(text)) if text.contains("403")), "{told:?}");

    // The second file is let in, and its first server isn't there.
    let access = Access { own: nobody(), ..scene.access(&[&stranger, &admin]) };
    let mut recorder = Recorder::new(access, "a test", None);
    for _ in 0..2 {
        recorder.tell(&event(&node)).await.unwrap();
    }
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("events.k8s.io", "v1", "Event"));
    let events: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), EVENT_NAMESPACE, &kind);
    let all = events.list(&Default::default()).await.unwrap().items;
    let found: Vec<_> = all.iter().filter(|event| event.data["regarding"]["name"] == node.as_str()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0].data["reason"], &found[0].data["type"]), (&json!("Tested"), &json!("Warning")));

    let access = Access { own: nobody(), servers: Vec::new(), ..scene.access(&[&admin]) };
    let access = Access { never: [scene_vip()].into(), ..access };
    let told = Recorder::new(access, "a test", None).tell(&event(&node)).await;
    assert!(matches!(told, Err(RecordError::Unreached(_))), "{told:?}");
}

/// Which the lab's kubeconfig names, and nobody has here.
fn scene_vip() -> std::net::IpAddr {
    std::env::var("LAB_VIP").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_label_is_put_on_found_and_taken_off_unless_the_node_has_changed() {
    let Some(scene) = Scene::open("label").await else { return };
    let nodes: Api<Node> = Api::all(scene.client.clone());
    let name = format!("labelled-{}", std::process::id());
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": name}}))).await.unwrap();
    let admin = scene.file_of("admin");
    let mut recorder = Recorder::new(scene.access(&[&admin]), "a test", None);
    let (label, value) = ("example.com/has", format!("v{}", std::process::id()));

    assert_eq!(recorder.labelled(label, &value).await.unwrap(), []);
    recorder.put_label(&name, label, &value).await.unwrap();
    let found = recorder.labelled(label, &value).await.unwrap();
    let [stale] = &found[..] else { panic!("{found:?}") };
    assert_eq!(stale.name, name);
    recorder.put_label(&name, "example.com/other", "1").await.unwrap();
    assert_eq!(recorder.take_label(stale, label).await, Err(RecordError::Changed));
    let found = recorder.labelled(label, &value).await.unwrap();
    recorder.take_label(&found[0], label).await.unwrap();
    assert_eq!(recorder.labelled(label, &value).await.unwrap(), []);

    let told = recorder.put_label("no-such-node", label, &value).await;
    assert!(matches!(&told, Err(RecordError::Refused(text)) if text.contains("no-such-node")), "{told:?}");
    let told = recorder.put_label(&name, label, "no value!").await;
    assert!(matches!(told, Err(RecordError::Refused(_))), "{told:?}");
    nodes.delete(&name, &DeleteParams::default()).await.unwrap();

    // What the election finds is asked as well.
    let known = object(json!({"nodes": {"a": [servers()[1].ip()]}}));
    let (_sender, known) = tokio::sync::watch::channel(known);
    let access =
        Access { own: nobody(), servers: Vec::new(), never: [scene_vip()].into(), ..scene.access(&[&admin]) };
    let mut recorder = Recorder::new(access, "a test", Some(known));
    assert_eq!(recorder.labelled(label, &value).await.unwrap(), []);
}
