//! The CRDs as files of the Helm chart. They are templates, so that an upgrade reaches them, and helm keeps them when the release
//! goes: who uninstalls the software does not mean to delete every policy of the cluster.

use std::fs;
use std::path::Path;

use kybernis_crds::crds;

const HEAD: &str = "{{- /* Written by `cargo xtask codegen` from the types in crds/. */ -}}\n{{- if .Values.crds.install }}\n";
const TAIL: &str = "{{- end }}\n";

/// Words that readers of YAML 1.1, helm and kubectl among them, take for booleans where they stand bare. Ours is a writer of 1.2.
const BOOLEANS: [&str; 6] = ["on", "off", "yes", "no", "y", "n"];

/// Puts such words in quotes, as keys, values and items.
fn quoted(yaml: &str) -> String {
    let quote = |word: &str| {
        let bare = BOOLEANS.iter().any(|boolean| word.eq_ignore_ascii_case(boolean));
        if bare { format!("{word:?}") } else { word.to_owned() }
    };
    let line = |line: &str| {
        let inner = line.trim_start_matches(['-', ' ']);
        let indent = &line[..line.len() - inner.len()];
        match inner.strip_suffix(':').map(|key| (key, None)).or_else(|| inner.split_once(": ").map(|(key, value)| (key, Some(value)))) {
            Some((key, Some(value))) => format!("{indent}{}: {}\n", quote(key), quote(value)),
            Some((key, None)) => format!("{indent}{}:\n", quote(key)),
            None => format!("{indent}{}\n", quote(inner)),
        }
    };
    yaml.lines().map(line).collect()
}

/// Each file's name and text.
fn files() -> Vec<(String, String)> {
    let file = |mut crd: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
        let name = format!("{}.yaml", crd.spec.names.plural);
        crd.metadata.annotations.get_or_insert_default().insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        let yaml = quoted(&serde_yaml_ng::to_string(&crd).unwrap());
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

#[test]
fn words_that_an_older_yaml_takes_for_booleans_stand_in_quotes() {
    let bare = "a:\n  on:\n  - name: ON\n  - No\n  - y: none\n  only: on time\n";
    assert_eq!(quoted(bare), "a:\n  \"on\":\n  - name: \"ON\"\n  - \"No\"\n  - \"y\": none\n  only: on time\n");
    for (name, text) in files() {
        assert_eq!(quoted(&text), text, "{name}");
    }
}
