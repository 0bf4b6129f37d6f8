//! The way in through an ingress controller.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
    IngressSpec, ServiceBackendPort,
};

use super::common::metadata;
use super::service::{PORT, front};
use crate::deploy::kubernetes::labels::name_of;
use crate::profile::Profile;

pub(super) fn ingress(profile: &Profile) -> Ingress {
    let wanted = &profile.deploy.kubernetes.ingress;
    let service = IngressServiceBackend {
        name: name_of(profile, front(profile)),
        port: Some(ServiceBackendPort { name: Some(PORT.to_owned()), number: None }),
    };
    let path = HTTPIngressPath {
        path: Some("/".to_owned()),
        path_type: "Prefix".to_owned(),
        backend: IngressBackend { service: Some(service), resource: None },
    };
    Ingress {
        metadata: metadata(profile, front(profile)),
        spec: Some(IngressSpec {
            ingress_class_name: wanted.class.clone(),
            rules: Some(vec![IngressRule {
                host: wanted.host.clone(),
                http: Some(HTTPIngressRuleValue { paths: vec![path] }),
            }]),
            ..IngressSpec::default()
        }),
        status: None,
    }
}
