//! A person's word on a gate, as admission signs it and the ledger believes it.
//!
//! Admission has it from the API server who the person is; between there and the ledger lie an object that others may write and an
//! operator that passes it on. The signature (Ed25519, RFC 8032) binds the person to one gate object, one request and one verdict, so
//! that none of them can change or move it, and so that it can still be checked when the object is long gone.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::{GateId, PersonId, RequestDigest};
use crate::machine::GateVerdict;

/// Length of a seed and of a public key, in bytes.
pub const KEY_LEN: usize = 32;

/// Says what is signed, so that no signature serves for anything else.
const DOMAIN: &str = "kybernis.io/v1alpha1 GateDecision";

/// What a person says of one gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The namespace of gate and decision.
    pub namespace: String,
    /// The gate.
    pub gate: GateId,
    /// The Gate object's uid: a namesake is another gate.
    pub gate_uid: String,
    /// Whom the gate asks: the right of the person to speak for it is what admission has looked at.
    pub class: String,
    /// The request that the person saw.
    pub digest: RequestDigest,
    /// What is said.
    pub verdict: GateVerdict,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// Who says it, by the API server's word.
    pub person: PersonId,
}

impl Word {
    /// What is signed: each field with its length before it, so that no two words read the same.
    fn message(&self) -> Vec<u8> {
        let verdict = match self.verdict {
            GateVerdict::Approve => "Approve",
            GateVerdict::Deny => "Deny",
            GateVerdict::Executed => "Executed",
            GateVerdict::NotExecuted => "NotExecuted",
        };
        let digest = self.digest.to_hex();
        let fields = [
            DOMAIN,
            &self.namespace,
            self.gate.as_str(),
            &self.gate_uid,
            &self.class,
            &digest,
            verdict,
            &self.reason,
            self.person.as_str(),
        ];
        fields
            .iter()
            .flat_map(|field| u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes().into_iter().chain(field.bytes()))
            .collect()
    }
}

/// Which key signed: the first 8 bytes of the public key's SHA-256, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    const BYTES: usize = 8;

    /// Of a public key.
    pub fn of(public_key: &[u8; KEY_LEN]) -> Self {
        let digest = Sha256::digest(public_key);
        Self(hex::encode(digest.get(..Self::BYTES).unwrap_or_default()))
    }

    /// 16 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Signs words.
pub struct Signer {
    pair: Ed25519KeyPair,
    public_key: [u8; KEY_LEN],
    id: KeyId,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.id).finish()
    }
}

impl Signer {
    /// The signer that this seed makes; `None` where it is no Ed25519 seed.
    pub fn from_seed(seed: &[u8; KEY_LEN]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public_key = pair.public_key().as_ref().try_into().ok()?;
        Some(Self { id: KeyId::of(&public_key), pair, public_key })
    }

    /// What its signatures are checked by.
    pub const fn public_key(&self) -> &[u8; KEY_LEN] {
        &self.public_key
    }

    /// The name that its signatures carry.
    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// Signs.
    pub fn sign(&self, word: &Word) -> Signature {
        Signature { key: self.id.clone(), bytes: self.pair.sign(&word.message()).as_ref().to_vec() }
    }
}

/// A signature as a GateDecision carries it: `ed25519:KEY:BASE64`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature {
    key: KeyId,
    bytes: Vec<u8>,
}

impl Signature {
    const SCHEME: &str = "ed25519";
    const LEN: usize = 64;

    /// Which key made it, by its own word.
    pub const fn key(&self) -> &KeyId {
        &self.key
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", Self::SCHEME, self.key, STANDARD.encode(&self.bytes))
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let parts = text.strip_prefix(Self::SCHEME).and_then(|rest| rest.strip_prefix(':')).and_then(|rest| rest.split_once(':'));
        let (key, bytes) = parts.ok_or(SignatureError::Form)?;
        let is_key = key.len() == 2 * KeyId::BYTES && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bytes = STANDARD.decode(bytes).ok().filter(|bytes| is_key && bytes.len() == Self::LEN).ok_or(SignatureError::Form)?;
        Ok(Self { key: KeyId(key.to_owned()), bytes })
    }
}

impl TryFrom<String> for Signature {
    type Error = SignatureError;

    fn try_from(text: String) -> Result<Self, SignatureError> {
        text.parse()
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        signature.to_string()
    }
}

/// Why a signature is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is none.
    #[error("is no signature: expected ed25519:KEY:BASE64")]
    Form,
    /// Nobody vouches for the key.
    #[error("is by key {0}, which admission has not published")]
    UnknownKey(KeyId),
    /// Of another word, or not by that key.
    #[error("does not fit what it stands under")]
    Mismatch,
}

/// The keys that admission has published, those of before included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys(BTreeMap<KeyId, [u8; KEY_LEN]>);

impl PublicKeys {
    /// Whether a signature by this key can be checked.
    pub fn knows(&self, key: &KeyId) -> bool {
        self.0.contains_key(key)
    }

    /// Believes this signature of this word.
    ///
    /// # Errors
    /// When the key is not among these, or the signature is not its own, or is of another word.
    pub fn verify(&self, word: &Word, signature: &Signature) -> Result<(), SignatureError> {
        let key = self.0.get(&signature.key).ok_or_else(|| SignatureError::UnknownKey(signature.key.clone()))?;
        UnparsedPublicKey::new(&ED25519, key).verify(&word.message(), &signature.bytes).map_err(|_| SignatureError::Mismatch)
    }
}

impl FromIterator<[u8; KEY_LEN]> for PublicKeys {
    fn from_iter<I: IntoIterator<Item = [u8; KEY_LEN]>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (KeyId::of(&key), key)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word() -> Word {
        Word {
            namespace: "trading".to_owned(),
            gate: GateId::new("gate-1").unwrap(),
            gate_uid: "6a4b".to_owned(),
            class: "desk-heads".to_owned(),
            digest: RequestDigest::from_bytes([7; 32]),
            verdict: GateVerdict::Approve,
            reason: "checked".to_owned(),
            person: PersonId::new("ada@example.com").unwrap(),
        }
    }

    #[test]
    fn a_signature_holds_for_its_word_and_for_no_other() {
        let signer = Signer::from_seed(&[1; KEY_LEN]).unwrap();
        let keys: PublicKeys = [*signer.public_key()].into_iter().collect();
        let signature: Signature = signer.sign(&word()).to_string().parse().unwrap();
        assert_eq!(keys.verify(&word(), &signature), Ok(()));
        let others = [
            Word { namespace: "other".to_owned(), ..word() },
            Word { gate: GateId::new("gate-2").unwrap(), ..word() },
            Word { gate_uid: "6a4c".to_owned(), ..word() },
            Word { class: "interns".to_owned(), ..word() },
            Word { digest: RequestDigest::from_bytes([8; 32]), ..word() },
            Word { verdict: GateVerdict::Deny, ..word() },
            Word { reason: "check".to_owned(), person: PersonId::new("edada@example.com").unwrap(), ..word() },
            Word { person: PersonId::new("eve@example.com").unwrap(), ..word() },
        ];
        for other in others {
            assert_eq!(keys.verify(&other, &signature), Err(SignatureError::Mismatch), "{other:?}");
        }
        let stranger = Signer::from_seed(&[2; KEY_LEN]).unwrap();
        assert_eq!(keys.verify(&word(), &stranger.sign(&word())), Err(SignatureError::UnknownKey(stranger.id().clone())));
        let forged = Signature { key: signer.id().clone(), ..stranger.sign(&word()) };
        assert_eq!(keys.verify(&word(), &forged), Err(SignatureError::Mismatch));
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let signature = Signer::from_seed(&[1; KEY_LEN]).unwrap().sign(&word()).to_string();
        for text in
            ["", "ed25519:", "ed25519:0011223344556677:", &signature.to_uppercase(), &signature[..signature.len() - 4], &signature[8..]]
        {
            assert_eq!(text.parse::<Signature>(), Err(SignatureError::Form), "{text}");
        }
    }
}
