//! Apiservers that don't answer.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use leader::{Leadership, kubernetes::Access};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::scene::{Candidate, LEASE, PATIENCE, Scene, nobody, servers, text_with_server};

/// Asks the lab for something.
fn lab(request: &Value) {
    let mut lab = UnixStream::connect(env::var_os("LAB_SOCKET").unwrap()).unwrap();
    writeln!(lab, "{request}").unwrap();
    let mut answer = String::new();
    BufReader::new(lab).read_line(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["ok"], true, "{request}: {answer}");
}

/// An apiserver that answers nothing as long as this is.
struct Frozen(&'static str);

impl Frozen {
    fn new(node: &'static str) -> Self {
        lab(&json!({"do": "signal", "node": node, "process": "apiserver", "signal": "STOP"}));
        Self(node)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        lab(&json!({"do": "signal", "node": self.0, "process": "apiserver", "signal": "CONT"}));
    }
}

#[tokio::test]
async fn where_nobody_listens_the_next_is_asked() {
    let Some(scene) = Scene::open("next").await else { return };
    let mut config = scene.config("a");
    config.access.own = nobody();
    let node = Candidate::start(config);
    node.leads().await;
    let status =
        node.tells("it knows who answers", |status| status.server.is_some() && status.watching).await;
    assert_eq!(status.server, Some(servers()[1]));
    assert_eq!(status.trouble, None, "another has carried it out");
    let before = status.failures;
    node.tells("it goes on", |later| later.requests > status.requests + 4).await;
    assert_eq!(node.monitor.status().borrow().failures, before);
    node.ends().await;
}

/// It goes on accepting connections, and says nothing.
#[tokio::test]
async fn a_leader_whose_own_apiserver_falls_silent_goes_on_with_another() {
    let Some(scene) = Scene::open_alone("silent").await else { return };
    let node = scene.leader().await;
    node.tells("its own answers", |status| status.server == Some(servers()[0])).await;
    let frozen = Frozen::new("master-1");
    node.tells("another answers", |status| status.server == Some(servers()[1])).await;
    let began = Instant::now();
    while began.elapsed() < 3 * LEASE {
        assert!(node.is_leader(), "it lost the lead after {:?}", began.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    node.tells("it watches there", |status| status.watching).await;
    let second = scene.start("b");
    second.follows("a").await;
    drop(frozen);
    node.ends().await;
    second.leads().await;
    second.ends().await;
}

#[tokio::test]
async fn a_leader_that_reaches_nobody_lets_go_and_leads_again_when_somebody_answers() {
    let Some(scene) = Scene::open_alone("all-silent").await else { return };
    let node = scene.leader().await;
    let frozen = [Frozen::new("master-1"), Frozen::new("master-2")];
    let mut leadership = node.handle.leadership();
    let follower = leadership.wait_for(|now| matches!(now, Leadership::Follower { .. }));
    tokio::time::timeout(PATIENCE, follower).await.unwrap().unwrap();
    node.complains("no answer in time").await;
    drop(frozen);
    node.leads().await;
    node.tells("it is over", |status| status.trouble.is_none()).await;
    node.ends().await;
}

/// The file names a server as well, and a virtual address is never one.
#[tokio::test]
async fn the_server_that_the_credentials_name_is_asked_unless_it_is_the_virtual_address() {
    let Some(scene) = Scene::open("named").await else { return };
    let path = scene.folder.join("named.conf");
    fs::write(&path, text_with_server(&servers()[2].to_string())).unwrap();
    let mut config = scene.config("a");
    config.access = Access { own: nobody(), servers: Vec::new(), ..scene.access(&[&path]) };
    let node = Candidate::start(config.clone());
    node.leads().await;
    node.tells("it is that one", |status| status.server == Some(servers()[2])).await;
    node.ends().await;

    config.access.never.insert(servers()[2].ip());
    let node = Candidate::start(config);
    node.complains("10.0.0.163:1: ").await;
    assert!(!node.is_leader());
    node.ends().await;
}
