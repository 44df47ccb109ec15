//! Credentials that are not there yet, can't be used, or are not let in.

use std::{fs, time::Duration};

use tokio::time::sleep;

use crate::scene::{Candidate, Scene, text_of};

#[tokio::test]
async fn credentials_that_come_later_are_taken_up() {
    let Some(scene) = Scene::open("later").await else { return };
    let path = scene.folder.join("later.conf");
    let mut config = scene.config("a");
    config.access.kubeconfigs = vec![path.clone()];
    let node = Candidate::start(config);
    node.complains(&format!("no credentials for the Kubernetes API: none of {} exists", path.display()))
        .await;
    fs::write(&path, "kind: Config\nclusters: 7\n").unwrap();
    node.complains(&format!("the kubeconfig {} can't be used", path.display())).await;
    fs::write(&path, text_of("admin")).unwrap();
    node.leads().await;
    let status = node.tells("it is over", |status| status.trouble.is_none()).await;
    assert_eq!(status.credentials, Some(path.display().to_string()));
    node.ends().await;
}

/// During `kubeadm init`, the first file has no rights yet.
#[tokio::test]
async fn where_the_first_are_not_let_in_the_second_are_asked_with() {
    let Some(scene) = Scene::open("second").await else { return };
    let (stranger, admin) = (scene.file_of("stranger"), scene.file_of("admin"));
    let mut config = scene.config("a");
    config.access.kubeconfigs = vec![stranger.clone(), admin.clone()];
    let node = Candidate::start(config);
    node.leads().await;
    let wanted = Some(admin.display().to_string());
    node.tells("it uses the second", |status| status.credentials == wanted).await;
    node.ends().await;

    let mut config = scene.config("a");
    config.access.kubeconfigs = vec![stranger];
    let node = Candidate::start(config);
    node.complains("403, not allowed: ").await;
    node.complains("`vipd manifest rbac` prints what is needed").await;
    assert!(!node.is_leader());
    node.ends().await;
}

#[tokio::test]
async fn credentials_that_have_expired_are_named_and_their_successors_taken_up() {
    let Some(scene) = Scene::open("expired").await else { return };
    let path = scene.file_of("expired");
    let mut config = scene.config("a");
    config.access.kubeconfigs = vec![path.clone()];
    let node = Candidate::start(config);
    node.complains("401, the server doesn't know these credentials").await;
    assert!(!node.is_leader());
    fs::write(&path, text_of("admin")).unwrap();
    node.leads().await;
    // In use, they are replaced once more, as they are each year: by a file that is another in a comment.
    fs::write(&path, format!("# renewed\n{}", text_of("admin"))).unwrap();
    let asked = node.monitor.status().borrow().requests;
    node.tells("it goes on", |status| status.requests > asked + 5).await;
    assert!(node.is_leader());
    node.ends().await;
}

/// How often this process has read from files.
fn reads() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap();
    count.parse().unwrap()
}

/// They are looked at every ten seconds, and those that can't be used twice a second.
#[tokio::test]
async fn files_are_read_no_more_often_than_somebody_might_mend_them() {
    let Some(scene) = Scene::open_alone("reads").await else { return };
    let path = scene.folder.join("mended.conf");
    fs::write(&path, "clusters: 7").unwrap();
    let mut config = scene.config("a");
    config.access.kubeconfigs = vec![path.clone()];
    let node = Candidate::start(config);
    node.complains("can't be used").await;
    let before = reads();
    sleep(Duration::from_secs(1)).await;
    let broken = reads() - before;
    fs::write(&path, text_of("admin")).unwrap();
    node.leads().await;
    let before = reads();
    sleep(Duration::from_secs(2)).await;
    let in_use = reads() - before;
    assert!(broken < 100 && in_use < 100, "{broken} reads in a second, {in_use} in two");
    node.ends().await;
}
