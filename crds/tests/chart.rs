//! The CRDs as files of the Helm chart. They are templates, so that an upgrade reaches them, and helm keeps them when the release
//! goes: who uninstalls the software does not mean to delete every policy of the cluster.

use std::fs;
use std::path::Path;

use kybernis_crds::crds;

const HEAD: &str = "{{- /* Written by `cargo xtask codegen` from the types in crds/. */ -}}\n{{- if .Values.crds.install }}\n";
const TAIL: &str = "{{- end }}\n";

/// Each file's name and text.
fn files() -> Vec<(String, String)> {
    let file = |mut crd: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
        let name = format!("{}.yaml", crd.spec.names.plural);
        crd.metadata.annotations.get_or_insert_default().insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        let yaml = serde_yaml_ng::to_string(&crd).unwrap();
        // Braces of ours in a description are no template.
        (name, format!("{HEAD}{}{TAIL}", yaml.replace("{{", "{{ \"{{\" }}")))
    };
    crds().into_iter().map(file).collect()
}

/// `cargo xtask codegen` runs this with `KYB_UPDATE` set, which writes what else is only compared.
#[test]
fn the_published_crds_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/kybernis/templates/crds");
    let files = files();
    if std::env::var_os("KYB_UPDATE").is_some() {
        fs::create_dir_all(&folder).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }
    for (name, text) in &files {
        let there = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(there == *text, "{name} is not what the types say: run cargo xtask codegen");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), files.len(), "{} holds a file that no kind has", folder.display());
}
