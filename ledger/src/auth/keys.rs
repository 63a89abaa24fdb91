//! Whose word on a gate is believed in a cluster: admission's, by the keys that it has published.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybernis_core::word::{KEY_LEN, KeyId, PublicKeys, Signature, SignatureError, Word};
use tokio::time::Instant;

use super::published::{Away, Published};

/// The keys that admission has published, as they were last seen.
#[derive(Debug)]
pub(crate) struct DecisionKeys(Published<PublicKeys>);

/// Why a word is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unbelieved {
    /// It will not be.
    #[error("the signature {0}")]
    Signature(#[from] SignatureError),
    /// It may yet be.
    #[error("the keys by which people's words are believed cannot be read now")]
    Away(#[from] Away),
}

impl DecisionKeys {
    /// What `fetch` finds is believed.
    pub(crate) fn new<F>(fetch: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<PublicKeys, String>> + Send + 'static,
    {
        Self(Published::new("the keys of people's decisions", fetch))
    }

    /// Believes this signature of this word. For a key that nobody knows it is looked again: admission signs by a new one as soon as
    /// it has published it.
    pub(crate) async fn believe(&self, word: &Word, signature: &Signature) -> Result<(), Unbelieved> {
        let asked = Instant::now();
        let mut keys = self.0.recent().await;
        if !keys.knows(signature.key()) {
            keys = self.0.since(asked).await?;
        }
        Ok(keys.verify(word, signature)?)
    }
}

/// The keys of a ConfigMap: name to key in standard base64. What stands under another name than its own is nobody's.
pub(super) fn published(data: &BTreeMap<String, String>) -> PublicKeys {
    let key = |(name, text): (&String, &String)| {
        let key: Option<[u8; KEY_LEN]> = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        let key = key.filter(|key| KeyId::of(key).as_str() == name);
        if key.is_none() {
            tracing::warn!(name, "what is published under this name is not the key that it names");
        }
        key
    };
    data.iter().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use kybernis_core::ids::{GateId, PersonId, RequestDigest};
    use kybernis_core::machine::GateVerdict;
    use kybernis_core::word::Signer;

    use super::super::published::{APART, FRESH};
    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer::from_seed(&[seed; KEY_LEN]).unwrap()
    }

    fn word() -> Word {
        Word {
            namespace: "trading".to_owned(),
            gate: GateId::new("gate-1").unwrap(),
            gate_uid: "6a4b".to_owned(),
            class: "desk-heads".to_owned(),
            digest: RequestDigest::from_bytes([7; 32]),
            verdict: GateVerdict::Approve,
            reason: String::new(),
            person: PersonId::new("ada").unwrap(),
        }
    }

    /// What the API server would say, and how often it was asked.
    #[derive(Clone, Default)]
    struct ApiServer {
        keys: Arc<Mutex<Option<Vec<u8>>>>,
        looks: Arc<AtomicUsize>,
    }

    impl ApiServer {
        fn set(&self, seeds: Option<&[u8]>) {
            *self.keys.lock().unwrap() = seeds.map(<[u8]>::to_vec);
        }

        fn looks(&self) -> usize {
            self.looks.load(Ordering::Relaxed)
        }

        fn keys(&self) -> DecisionKeys {
            let published = self.clone();
            DecisionKeys::new(move || {
                published.looks.fetch_add(1, Ordering::Relaxed);
                let keys = published.keys.lock().unwrap().clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let seeds = keys.ok_or_else(|| "away".to_owned())?;
                    Ok(seeds.into_iter().map(|seed| *signer(seed).public_key()).collect())
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_not_known_is_looked_for_and_one_that_is_known_outlives_an_absence() {
        let published = ApiServer::default();
        let keys = published.keys();
        let signed = |seed| signer(seed).sign(&word());
        assert_eq!(keys.believe(&word(), &signed(1)).await, Err(Unbelieved::Away(Away)), "nobody could be asked");
        published.set(Some(&[1]));
        assert_eq!(keys.believe(&word(), &signed(1)).await, Ok(()));
        published.set(None);
        assert_eq!(keys.believe(&word(), &signed(1)).await, Ok(()));
        assert_eq!(published.looks(), 2, "a key that is known is not looked for");
        assert_eq!(keys.believe(&word(), &signed(2)).await, Err(Unbelieved::Away(Away)));
        published.set(Some(&[1, 2]));
        assert_eq!(keys.believe(&word(), &signed(2)).await, Ok(()));
        let unknown = SignatureError::UnknownKey(signer(3).id().clone());
        assert_eq!(keys.believe(&word(), &signed(3)).await, Err(Unbelieved::Signature(unknown)));

        // Past the time for which keys are gone by: an absence changes nothing, one that was taken back is believed no more.
        published.set(None);
        tokio::time::advance(FRESH + APART).await;
        assert_eq!(keys.believe(&word(), &signed(1)).await, Ok(()));
        published.set(Some(&[2]));
        tokio::time::advance(FRESH + APART).await;
        assert!(matches!(keys.believe(&word(), &signed(1)).await, Err(Unbelieved::Signature(SignatureError::UnknownKey(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_look_once_and_not_more_often_than_may_be() {
        let published = ApiServer::default();
        published.set(Some(&[1]));
        let keys = published.keys();
        let begun = Instant::now();
        let (word, stranger) = (word(), signer(9).sign(&word()));
        for round in 1..=3 {
            let asked = futures::future::join_all((0..50).map(|_| keys.believe(&word, &stranger))).await;
            assert!(asked.iter().all(|asked| matches!(asked, Err(Unbelieved::Signature(_)))));
            assert_eq!(published.looks(), round);
        }
        assert!(begun.elapsed() >= 2 * APART, "{:?}", begun.elapsed());
    }

    #[test]
    fn only_what_stands_under_its_own_name_is_a_key() {
        let (one, other) = (signer(1), signer(2));
        let text = |signer: &Signer| STANDARD.encode(signer.public_key());
        let data = BTreeMap::from([
            (one.id().to_string(), text(&one)),
            (other.id().to_string(), text(&one)),
            ("0011223344556677".to_owned(), "AAAA".to_owned()),
            ("README".to_owned(), "no base64".to_owned()),
        ]);
        assert_eq!(published(&data), [*one.public_key()].into_iter().collect());
    }
}
