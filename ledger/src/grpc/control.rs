//! The gRPC service of the operator: policies in, and out which sidecars run with them; gates out, and people's words on them in.

mod follow;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kybernis_core::ids::TenantId;
use kybernis_core::machine::{DecideGate, Gate, Refuse, Voucher};
use kybernis_core::mutation::broken;
use kybernis_core::policy::{PolicySet, SecretRef};
use kybernis_core::reason::Code;
use kybernis_core::word::{Signature, SignatureError, Word};
use kybernis_proto::{SignedWord, v1};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{Messages, admit};
use crate::auth::{Auth, DecisionKeys, Endpoint, Unbelieved};
use crate::fleet::Fleet;
use crate::policy::{Given, Secrets};
use crate::tenants::{Folders, ProgramError};

/// The service.
#[derive(Debug)]
pub(crate) struct Control {
    auth: Auth,
    tenants: Folders,
    fleet: Fleet,
    keys: DecisionKeys,
    closing: CancellationToken,
}

impl Control {
    /// A service that ends its streams when `closing` is cancelled.
    pub(crate) const fn new(auth: Auth, tenants: Folders, fleet: Fleet, keys: DecisionKeys, closing: CancellationToken) -> Self {
        Self { auth, tenants, fleet, keys, closing }
    }

    /// Puts a person's word on record. The refusal is for good; a status is not.
    async fn take(&self, SignedWord { tenant, word, signature }: SignedWord) -> Result<Result<(), Refuse>, Status> {
        let signature = match self.believed(&word, signature).await {
            Ok(signature) => signature,
            Err(Unbelieved::Signature(error)) => {
                return Ok(Err(Refuse::new(Code::DecisionUnsigned, format!("The decision's signature {error}."))));
            }
            Err(away @ Unbelieved::Away(_)) => return Err(Status::unavailable(away.to_string())),
        };
        let engine = self.tenants.of(&tenant).await?.engine.clone();
        let gate = word.gate.clone();
        let is_of = {
            let (namespace, class) = (word.namespace.clone(), word.class.clone());
            let is_of = move |gate: &Gate| gate.spec.agent.namespace() == namespace && gate.spec.class == class;
            engine.read(move |state| state.gate(&gate).is_some_and(is_of)).await?
        };
        let Word { namespace, gate, gate_uid, class, digest, verdict, reason, person } = word;
        // Whoever may decide in one namespace decides nothing in another, although both are one tenant's.
        if !is_of && !broken("a_word_is_of_its_gate_s_namespace") {
            return Ok(Err(Refuse::new(Code::NotFound, format!("There is no gate {gate} of class {class} in namespace {namespace}."))));
        }
        let voucher = Some(Box::new(Voucher { namespace, gate_uid, signature }));
        Ok(engine.decide_gate(DecideGate { gate, digest: Some(digest), person, verdict, reason, voucher }).await?)
    }

    /// The signature, once admission is found to have made it.
    async fn believed(&self, word: &Word, signature: Result<Signature, SignatureError>) -> Result<Signature, Unbelieved> {
        let signature = signature?;
        match self.keys.believe(word, &signature).await {
            Err(_) if broken("only_admission_vouches_for_people") => Ok(signature),
            believed => believed.map(|()| signature),
        }
    }
}

impl From<ProgramError> for Status {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::Policy(_) => Self::invalid_argument(error.to_string()),
            ProgramError::Tenant(tenant) => tenant.into(),
            ProgramError::Keep(ref source) => {
                tracing::error!(error = %source, "a PolicySet cannot be kept");
                Self::unavailable(error.to_string())
            }
        }
    }
}

fn invalid(field: &str, rule: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {rule}"))
}

#[tonic::async_trait]
impl v1::control_server::Control for Control {
    type WatchSidecarsStream = Messages<v1::SidecarUpdate>;
    type WatchGatesStream = Messages<v1::GateUpdate>;

    async fn program(&self, request: Request<v1::ProgramRequest>) -> Result<Response<v1::ProgramReply>, Status> {
        admit(&self.auth, request.metadata(), Endpoint::Operator).await?;
        let v1::ProgramRequest { tenant, policy_set, secrets, keep_own } = request.into_inner();
        let tenant = TenantId::new(&tenant).map_err(|error| invalid("tenant", error))?;
        let set: PolicySet = serde_json::from_slice(&policy_set).map_err(|error| invalid("policy_set", error))?;
        let secret = |v1::Secret { namespace, name, key, value }| (SecretRef { namespace, name, key }, Zeroizing::new(value));
        let secrets: Secrets = secrets.into_iter().map(secret).collect::<BTreeMap<_, _>>();
        let given = Given { set, secrets };
        if keep_own && !given.is_cluster() {
            return Err(invalid("policy_set", "with keep_own it has what binds the whole cluster, and nothing else"));
        }
        let digest = self.tenants.program(&tenant, given, keep_own).await?;
        tracing::info!(%tenant, %digest, "a policy is in force");
        Ok(Response::new(v1::ProgramReply { digest: digest.as_bytes().to_vec() }))
    }

    async fn watch_sidecars(&self, request: Request<v1::WatchSidecarsRequest>) -> Result<Response<Self::WatchSidecarsStream>, Status> {
        admit(&self.auth, request.metadata(), Endpoint::Operator).await?;
        Ok(Response::new(follow::messages(self.fleet.watch(), false, self.closing.clone())))
    }

    async fn watch_gates(&self, request: Request<v1::WatchGatesRequest>) -> Result<Response<Self::WatchGatesStream>, Status> {
        admit(&self.auth, request.metadata(), Endpoint::Operator).await?;
        let partial = self.tenants.any_closed();
        Ok(Response::new(follow::messages(self.tenants.gates().watch(), partial, self.closing.clone())))
    }

    async fn decide_gate(&self, request: Request<v1::DecideGateRequest>) -> Result<Response<v1::DecideGateReply>, Status> {
        admit(&self.auth, request.metadata(), Endpoint::Operator).await?;
        let word = SignedWord::try_from(request.into_inner())?;
        let (gate, person) = (word.word.gate.clone(), word.word.person.clone());
        let reply = match self.take(word).await? {
            Ok(()) => v1::DecideGateReply::default(),
            Err(Refuse { code, detail, .. }) => {
                tracing::warn!(%gate, %person, %code, "a person's word is not taken");
                v1::DecideGateReply { code: code.as_str().to_owned(), detail }
            }
        };
        Ok(Response::new(reply))
    }
}
