//! What is known of namespaces. A watch fills it; one that it has not brought yet is asked for. Who watches and answers stands on
//! the other side of a channel: the API server's driver, or a test.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::consent::Namespace;

/// Questions that wait; there are never more reviews at a time than this.
const WAITING: usize = 64;
/// How long one waits: API servers wait ten seconds for the whole review.
const PATIENCE: Duration = Duration::from_secs(4);

/// A namespace's labels.
pub(crate) type Labels = BTreeMap<String, String>;

/// A question for one namespace, which is nothing where there is none of that name.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) answer: oneshot::Sender<Result<Option<Labels>, String>>,
}

/// Why a namespace is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    #[error("the namespace {name} is not known")]
    Absent { name: String },
    #[error("the namespace {name} could not be looked up: {why}")]
    Away { name: String, why: String },
}

/// What is known, and whom to ask.
#[derive(Clone, Debug)]
pub(crate) struct Namespaces {
    /// `None` until the watch has listed all of them.
    known: Arc<RwLock<Option<HashMap<String, Labels>>>>,
    questions: mpsc::Sender<Question>,
}

/// Nothing known yet, and the questions to come.
pub(crate) fn namespaces() -> (Namespaces, mpsc::Receiver<Question>) {
    let (questions, asked) = mpsc::channel(WAITING);
    (Namespaces { known: Arc::default(), questions }, asked)
}

impl Namespaces {
    /// Whether the watch has listed all of them.
    pub(crate) fn is_listed(&self) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// These are all there are.
    pub(crate) fn list(&self, all: HashMap<String, Labels>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(all);
    }

    /// One is new or has changed, or, without labels, is gone.
    pub(crate) fn change(&self, name: String, labels: Option<Labels>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // A list that comes later will have it.
        let Some(known) = known.as_mut() else { return };
        match labels {
            Some(labels) => known.insert(name, labels),
            None => known.remove(&name),
        };
    }

    /// What the watch has brought.
    pub(crate) fn known(&self, name: &str) -> Option<Namespace> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let labels = known.as_ref()?.get(name)?.clone();
        Some(Namespace { name: name.to_owned(), labels })
    }

    /// Asks, once. What is answered is not kept: the watch may have brought something newer meanwhile.
    pub(crate) async fn ask(&self, name: &str) -> Result<Namespace, Unknown> {
        let away = |why: &str| Unknown::Away { name: name.to_owned(), why: why.to_owned() };
        let asked = async {
            let (answer, answered) = oneshot::channel();
            let question = Question { name: name.to_owned(), answer };
            self.questions.send(question).await.map_err(|_| away("the webhook is stopping"))?;
            answered.await.map_err(|_| away("the webhook is stopping"))
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| away("the API server does not answer in time"))??;
        match answer {
            Ok(Some(labels)) => Ok(Namespace { name: name.to_owned(), labels }),
            Ok(None) => Err(Unknown::Absent { name: name.to_owned() }),
            Err(why) => Err(away(&why)),
        }
    }
}
