//! What a node may do there, asked before it does.

use std::{fs, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use leader::kubernetes::{Access, Right, Survey, SurveyError};
use serde_json::json;

use crate::scene::{NAMESPACE, Scene, nobody, object, servers, text_with_server};

const PATIENCE: Duration = Duration::from_secs(5);

fn rights() -> [Right; 3] {
    let right = |verb, group, resource, namespace: Option<&str>| Right {
        verb,
        group,
        resource,
        namespace: namespace.map(str::to_owned),
    };
    [
        right("get", "coordination.k8s.io", "leases", Some(NAMESPACE)),
        right("list", "", "nodes", None),
        // Everybody who is known at all may ask this.
        right("create", "authorization.k8s.io", "selfsubjectaccessreviews", None),
    ]
}

async fn survey(access: &Access) -> Result<Survey, SurveyError> {
    Survey::make(access, &rights(), "a test", PATIENCE).await
}

#[tokio::test]
async fn a_survey_names_the_rights_that_are_missing_and_no_others() {
    let Some(scene) = Scene::open("rights").await else { return };
    let (admin, stranger) = (scene.file_of("admin"), scene.file_of("stranger"));
    let found = survey(&scene.access(&[&admin])).await.unwrap();
    assert_eq!((found.server, &found.missing[..], &found.refusal), (Some(servers()[0]), &[][..], &None));
    assert_eq!((found.credentials, found.name), (admin.display().to_string(), None));
    assert!(found.silent.is_empty());

    let found = survey(&scene.access(&[&stranger])).await.unwrap();
    assert_eq!(found.missing, rights()[..2]);
    assert_eq!(found.missing[0].to_string(), "get leases in kube-system");
    assert_eq!(found.missing[1].to_string(), "list nodes");
    assert_eq!(found.credentials, stranger.display().to_string());
    assert_eq!(found.proxy, None, "which it may not read");

    // Credentials that have all rights count, wherever they stand; without any, the first.
    let found = survey(&scene.access(&[&stranger, &admin])).await.unwrap();
    assert_eq!((found.credentials, found.missing.len()), (admin.display().to_string(), 0));
    let expired = scene.file_of("expired");
    let found = survey(&scene.access(&[&stranger, &expired])).await.unwrap();
    assert_eq!((found.credentials, found.missing.len()), (stranger.display().to_string(), 2));
}

#[tokio::test]
async fn a_survey_says_who_did_not_answer_and_why_it_could_not_ask() {
    let Some(scene) = Scene::open("silent-survey").await else { return };
    let admin = scene.file_of("admin");
    let found = survey(&Access { own: nobody(), ..scene.access(&[&admin]) }).await.unwrap();
    assert_eq!(found.server, Some(servers()[1]));
    assert_eq!(found.silent.iter().map(|(server, _)| *server).collect::<Vec<_>>(), [nobody()]);
    assert!(!found.silent[0].1.is_empty());

    let expired = scene.file_of("expired");
    let found = survey(&scene.access(&[&expired])).await.unwrap();
    assert!(found.refusal.as_ref().is_some_and(|text| text.starts_with("401")), "{found:?}");
    assert_eq!(found.missing, []);

    let none = scene.folder.join("none.conf");
    let failed = survey(&scene.access(&[&none])).await.unwrap_err();
    assert!(matches!(&failed, SurveyError::Absent(text) if text.contains("none.conf")), "{failed}");
    let garbage = scene.folder.join("garbage.conf");
    fs::write(&garbage, "clusters: 7").unwrap();
    let failed = survey(&scene.access(&[&garbage])).await.unwrap_err();
    assert!(matches!(&failed, SurveyError::Unusable(text) if text.contains("garbage.conf")), "{failed}");
}

#[tokio::test]
async fn a_name_in_the_credentials_and_kube_proxys_configuration_are_told() {
    let Some(scene) = Scene::open("proxy").await else { return };
    let maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), NAMESPACE);
    let map = object(json!({"metadata": {"name": "kube-proxy"}, "data": {"config.conf": "mode: ipvs\n"}}));
    maps.create(&PostParams::default(), &map).await.unwrap();
    let path = scene.folder.join("named.conf");
    fs::write(&path, text_with_server("api.example.com:6443")).unwrap();

    let found = survey(&scene.access(&[&path])).await.unwrap();
    assert_eq!(found.name.as_deref(), Some("api.example.com"));
    assert_eq!(found.proxy.as_deref(), Some("mode: ipvs\n"));
    maps.delete("kube-proxy", &DeleteParams::default()).await.unwrap();
}
