//! The keys and certificates behind the state, as the Secret holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::rotation::{Action, State};

/// Clocks differ: certificates hold from an hour ago.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaterialError {
    /// One cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// The state names a key that is not there.
    #[error("{what} is not there")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// It is no JSON of ours.
    #[error("it does not read as what the webhook writes: {0}")]
    Read(#[from] serde_json::Error),
    /// It is no PEM.
    #[error("{what} is no PEM: {source}")]
    Pem {
        /// What.
        what: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// TLS does not take it.
    #[error("TLS does not take the certificate with its key: {0}")]
    Use(#[from] rustls::Error),
}

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pair {
    certificate: String,
    key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// The state with its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) state: State,
    authorities: BTreeMap<u64, Pair>,
    leaf: Option<Pair>,
}

impl Kept {
    /// Reads what the Secret holds; every key that the state names must be there and fit.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, MaterialError> {
        let kept: Self = serde_json::from_slice(bytes)?;
        if !kept.state.authorities.iter().all(|authority| kept.authorities.contains_key(&authority.id)) {
            return Err(MaterialError::Missing { what: "an authority's key" });
        }
        for pair in kept.authorities.values() {
            Issuer::from_ca_cert_pem(&pair.certificate, KeyPair::from_pem(&pair.key)?)?;
        }
        kept.certified()?;
        Ok(kept)
    }

    /// For the Secret.
    pub(crate) fn write(&self) -> Result<Vec<u8>, MaterialError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// The same in its next state, with the keys that it takes.
    pub(crate) fn apply(&self, state: State, actions: &[Action], server_name: &str) -> Result<Self, MaterialError> {
        let mut next = Self { state, ..self.clone() };
        for action in actions {
            match action {
                Action::MakeAuthority(id) => {
                    let made = next.state.authorities.iter().find(|authority| authority.id == *id);
                    let made = made.ok_or(MaterialError::Missing { what: "the authority" })?;
                    next.authorities.insert(*id, authority(*id, made.made, made.ends)?);
                }
                Action::SignLeaf { by, .. } => {
                    let issuer = next.authorities.get(by).ok_or(MaterialError::Missing { what: "the leaf's authority" })?;
                    let made = next.state.leaf.as_ref().ok_or(MaterialError::Missing { what: "the leaf" })?;
                    next.leaf = Some(leaf(issuer, server_name, made.made, made.ends)?);
                }
                Action::DropAuthority(id) => {
                    next.authorities.remove(id);
                }
            }
        }
        if next.state.leaf.is_none() {
            next.leaf = None;
        }
        Ok(next)
    }

    /// What `caBundle` must say: every authority, the oldest first.
    pub(crate) fn bundle(&self) -> String {
        self.authorities.values().map(|pair| pair.certificate.as_str()).collect()
    }

    /// Those of the authorities that all of these bundles hold.
    pub(crate) fn published_in(&self, bundles: &[String]) -> BTreeSet<u64> {
        let is_in_all = |pair: &Pair| bundles.iter().all(|bundle| bundle.contains(pair.certificate.trim()));
        self.authorities.iter().filter(|(_, pair)| is_in_all(pair)).map(|(id, _)| *id).collect()
    }

    /// The leaf for TLS, where there is one.
    pub(crate) fn certified(&self) -> Result<Option<CertifiedKey>, MaterialError> {
        match (&self.state.leaf, &self.leaf) {
            (Some(_), Some(pair)) => certified(pair.certificate.as_bytes(), pair.key.as_bytes()).map(Some),
            (Some(_), None) => Err(MaterialError::Missing { what: "the leaf's key" }),
            (None, _) => Ok(None),
        }
    }
}

/// A chain and its key, both in PEM, for TLS.
pub(crate) fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, MaterialError> {
    let pem = |what| move |source| MaterialError::Pem { what, source };
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(pem("the certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(pem("the key"))?;
    if chain.is_empty() {
        return Err(MaterialError::Missing { what: "the certificate" });
    }
    let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?;
    certified.keys_match()?;
    Ok(certified)
}

fn authority(id: u64, made: Moment, ends: Moment) -> Result<Pair, MaterialError> {
    let mut params = CertificateParams::default();
    // Each has a name of its own: a bundle holds two, and verifiers look them up by name.
    params.distinguished_name.push(DnType::CommonName, format!("Kybernis webhook CA {id} of {}", made.unix_seconds()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (made.floor() - BACKDATED, ends.ceil());
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

fn leaf(issuer: &Pair, server_name: &str, made: Moment, ends: Moment) -> Result<Pair, MaterialError> {
    let issuer = Issuer::from_ca_cert_pem(&issuer.certificate, KeyPair::from_pem(&issuer.key)?)?;
    let mut params = CertificateParams::new(vec![server_name.to_owned()])?;
    // The subject's length is bounded (64); the name that counts is the alternative one.
    params.distinguished_name.push(DnType::CommonName, "Kybernis webhook");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (made.floor() - BACKDATED, ends.ceil());
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::super::rotation::{Lifetimes, Seen, step};
    use super::*;

    fn made() -> Kept {
        let next = step(&State::default(), &Seen::default(), Moment::now(), &Lifetimes::default());
        Kept::default().apply(next.state, &next.actions, "kybernis-webhook.kybernis-system.svc").unwrap()
    }

    #[test]
    fn what_is_written_reads_again() {
        let kept = made();
        let bytes = kept.write().unwrap();
        assert_eq!(Kept::read(&bytes).unwrap(), kept);
        assert!(kept.certified().unwrap().is_some());
        assert!(!format!("{kept:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_somebody_else_wrote_is_refused() {
        let (mine, other) = (made(), made());
        let mut torn = mine.clone();
        torn.authorities.clear();
        let mut mixed = mine.clone();
        mixed.leaf = mine.leaf.clone().zip(other.leaf).map(|(mine, other)| Pair { certificate: mine.certificate, key: other.key });
        let mut none = mine;
        none.leaf = None;
        for wrong in [torn, mixed, none] {
            assert!(Kept::read(&wrong.write().unwrap()).is_err());
        }
        assert!(Kept::read(b"").is_err());
        assert!(Kept::read(b"{\"state\":{}}").is_err());
    }

    #[test]
    fn a_bundle_tells_what_is_published() {
        let kept = made();
        assert_eq!(kept.published_in(&[kept.bundle(), format!("# old\n{}", kept.bundle())]), BTreeSet::from([1]));
        assert_eq!(kept.published_in(&[kept.bundle(), String::new()]), BTreeSet::new());
        assert_eq!(kept.published_in(&[made().bundle()]), BTreeSet::new());
    }
}
