//! The cluster's certificates, keys and kubeconfigs, made afresh at every start and gone at its end.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::parts::{API, NODE_ADDRESSES, NODE_NAME, SERVICE_ADDRESSES};

/// Who talks to the API server: the file's name, the user, and the group that Kubernetes' own roles are bound to.
const CALLERS: [(&str, &str, &str); 6] = [
    // The one group that RBAC never refuses.
    ("admin", "kubernetes-admin", "system:masters"),
    ("kube-controller-manager", "system:kube-controller-manager", ""),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kube-proxy", "system:kube-proxy", ""),
    ("coredns", "system:coredns", ""),
    ("kubelet", "system:node:node", "system:nodes"),
];

/// An authority that signs for this run only.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a certificate is good for.
enum Purpose {
    Client,
    Server(Vec<String>),
}

/// Writes everything into `folder`.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let cluster = Authority::new("kubernetes")?;
    cluster.save(folder, "ca")?;
    // Extension API servers believe whoever this authority names, so it is not the one that names ordinary clients.
    let front = Authority::new("front-proxy")?;
    front.save(folder, "front-proxy-ca")?;
    front.issue("front-proxy-client", "", Purpose::Client)?.save(folder, "front-proxy-client")?;

    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];
    let addresses = NODE_ADDRESSES.iter().chain(&SERVICE_ADDRESSES).chain(&["127.0.0.1", "::1"]);
    let server = names.iter().chain(addresses).map(ToString::to_string).collect();
    cluster.issue("kube-apiserver", "", Purpose::Server(server))?.save(folder, "kube-apiserver")?;
    let node = std::iter::once(&NODE_NAME).chain(&NODE_ADDRESSES).map(ToString::to_string).collect();
    cluster.issue("kubelet", "", Purpose::Server(node))?.save(folder, "kubelet-server")?;
    cluster.issue("kube-apiserver", "system:masters", Purpose::Client)?.save(folder, "kubelet-client")?;

    for (file, user, group) in CALLERS {
        let pair = cluster.issue(user, group, Purpose::Client)?;
        let path = folder.join(format!("{file}.kubeconfig"));
        save_secret(&path, &kubeconfig(&cluster.pem, user, &pair))?;
    }

    let tokens = KeyPair::generate()?;
    save_secret(&folder.join("service-accounts.key"), &tokens.serialize_pem())?;
    save(&folder.join("service-accounts.pub"), &tokens.public_key_pem())
}

/// A certificate and its key, both PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn save(&self, folder: &Path, name: &str) -> Result<()> {
        save(&folder.join(format!("{name}.crt")), &self.certificate)?;
        save_secret(&folder.join(format!("{name}.key")), &self.key)
    }
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn save(&self, folder: &Path, name: &str) -> Result<()> {
        Pair { certificate: self.pem.clone(), key: self.issuer.key().serialize_pem() }.save(folder, name)
    }

    fn issue(&self, user: &str, group: &str, purpose: Purpose) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let (names, usage) = match purpose {
            Purpose::Client => (Vec::new(), ExtendedKeyUsagePurpose::ClientAuth),
            Purpose::Server(names) => (names, ExtendedKeyUsagePurpose::ServerAuth),
        };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

/// JSON, which is YAML; the certificates are in it, so that the file works wherever it is read.
fn kubeconfig(authority: &str, user: &str, pair: &Pair) -> String {
    use base64::Engine as _;
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kybernis", "cluster": {"server": API, "certificate-authority-data": encode(authority)}}],
        "users": [{"name": user, "user": {"client-certificate-data": encode(&pair.certificate), "client-key-data": encode(&pair.key)}}],
        "contexts": [{"name": "kybernis", "context": {"cluster": "kybernis", "user": user}}],
        "current-context": "kybernis",
    })
    .to_string()
}

fn save(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn save_secret(path: &PathBuf, text: &str) -> Result<()> {
    let open = || fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    let write = || open()?.write_all(text.as_bytes());
    write().with_context(|| format!("cannot write {}", path.display()))
}
