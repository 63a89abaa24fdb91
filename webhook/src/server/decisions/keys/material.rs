//! Seeds and public keys, as the Secret and the ConfigMap hold them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybernis_core::word::{KEY_LEN, KeyId, PublicKeys, Signer};
use ring::rand::{SecureRandom as _, SystemRandom};

/// What a ConfigMap's `data` holds: keys' names and, in base64, the public keys.
pub(crate) type Entries = BTreeMap<String, String>;

/// No entropy is to be had.
#[derive(Debug, thiserror::Error)]
#[error("no key can be made: the system has no random bytes")]
pub(crate) struct NoEntropy;

/// A new seed.
pub(crate) fn seed() -> Result<[u8; KEY_LEN], NoEntropy> {
    let mut seed = [0; KEY_LEN];
    SystemRandom::new().fill(&mut seed).map_err(|_| NoEntropy)?;
    Ok(seed)
}

/// The signer of a Secret's bytes, where they are a seed.
pub(crate) fn signer(bytes: &[u8]) -> Option<Signer> {
    Signer::from_seed(bytes.try_into().ok()?)
}

/// As the ConfigMap holds this signer's key.
pub(crate) fn entry(signer: &Signer) -> (String, String) {
    (signer.id().to_string(), STANDARD.encode(signer.public_key()))
}

/// The keys of a ConfigMap. An entry whose name is not its key's is nobody's word for it.
pub(crate) fn public_keys(entries: &Entries) -> PublicKeys {
    let read = |(name, text): (&String, &String)| -> Option<[u8; KEY_LEN]> {
        let key = STANDARD.decode(text).ok()?.try_into().ok()?;
        (KeyId::of(&key).as_str() == name).then_some(key)
    };
    entries.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_that_name_their_key_are_believed() {
        let (ours, other) = (signer(&[1; KEY_LEN]).unwrap(), signer(&[2; KEY_LEN]).unwrap());
        let (name, key) = entry(&ours);
        let entries = Entries::from([
            (name, key),
            ("0011223344556677".to_owned(), entry(&other).1),
            ("note".to_owned(), "hands off".to_owned()),
            ("empty".to_owned(), String::new()),
        ]);
        let keys = public_keys(&entries);
        assert!(keys.knows(ours.id()) && !keys.knows(other.id()));
        assert_eq!(keys, [*ours.public_key()].into_iter().collect());
    }

    #[test]
    fn seeds_are_32_bytes_and_each_is_new() {
        assert!(signer(&[1; 31]).is_none() && signer(&[]).is_none());
        assert_ne!(seed().unwrap(), seed().unwrap());
    }
}
