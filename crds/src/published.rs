//! What the API server is told beyond what the types' derives say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use serde_json::Value;

use crate::later::{LATER_FIELDS, Later, NOT_YET};

/// A derived CRD as it is published.
pub(crate) fn published(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let CustomResourceDefinition { spec, .. } = &mut crd;
    for schema in spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut()) {
        plain(schema, false);
        LATER_FIELDS.iter().filter(|later| later.kind == spec.names.kind).for_each(|later| refuse_later(schema, later));
    }
    crd
}

/// Kubernetes warns of formats that it does not know, and shows every member that a default has, those that say nothing too. In a
/// list's items it fills in none: `kubectl apply` compares lists as wholes, and would find each of them changed for ever.
fn plain(schema: &mut JSONSchemaProps, in_list: bool) {
    schema.format.take_if(|format| format.starts_with("uint"));
    schema.default.take_if(|_| in_list);
    if let Some(default) = &mut schema.default {
        strip_nulls(&mut default.0);
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(|property| plain(property, in_list));
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => plain(item, true),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(|item| plain(item, true)),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        plain(value, in_list);
    }
}

fn strip_nulls(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(strip_nulls);
    }
}

/// The part of a schema that describes the value at `path`.
fn part<'s>(schema: &'s mut JSONSchemaProps, path: &str) -> Option<&'s mut JSONSchemaProps> {
    path.split('.').filter(|step| !step.is_empty()).try_fold(schema, |schema, step| {
        let (name, each) = step.strip_suffix("[]").map_or((step, false), |name| (name, true));
        let property = schema.properties.as_mut()?.get_mut(name)?;
        if !each {
            return Some(property);
        }
        match property.items.as_mut()? {
            JSONSchemaPropsOrArray::Schema(item) => Some(item.as_mut()),
            JSONSchemaPropsOrArray::Schemas(_) => None,
        }
    })
}

/// Adds the field, and the rule that it may not be there.
fn refuse_later(schema: &mut JSONSchemaProps, later: &Later) {
    let (parent, name) = later.path.rsplit_once('.').unwrap_or(("", later.path));
    let Some(parent) = part(schema, parent) else { return };
    let property = JSONSchemaProps {
        type_: Some(later.form.to_owned()),
        description: Some(format!("{} Not yet supported.", later.about)),
        x_kubernetes_preserve_unknown_fields: (later.form == "object").then_some(true),
        ..JSONSchemaProps::default()
    };
    parent.properties.get_or_insert_default().insert(name.to_owned(), property);
    parent.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
        rule: format!("!has(self.{name})"),
        message: Some(format!("{NOT_YET}; remove it until it is")),
        reason: Some("FieldValueForbidden".to_owned()),
        field_path: Some(format!(".{name}")),
        ..ValidationRule::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::crds;

    fn schema_of(kind: &str) -> JSONSchemaProps {
        let mut crd = crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        crd.spec.versions.remove(0).schema.unwrap().open_api_v3_schema.unwrap()
    }

    #[test]
    fn no_default_shows_members_that_say_nothing_and_every_format_is_one_that_kubernetes_knows() {
        for crd in crds() {
            let text = serde_json::to_string(&crd).unwrap();
            assert!(!text.contains(":null") && !text.contains("\"uint"), "{}", crd.spec.names.kind);
        }
    }

    #[test]
    fn every_later_field_stands_in_its_kinds_schema_beside_a_rule_that_refuses_it() {
        for later in &LATER_FIELDS {
            let mut schema = schema_of(later.kind);
            let (parent, name) = later.path.rsplit_once('.').unwrap();
            let parent = part(&mut schema, parent).unwrap();
            assert!(parent.properties.as_ref().unwrap().contains_key(name), "{}", later.path);
            let rules = parent.x_kubernetes_validations.as_ref().unwrap();
            assert_eq!(rules.iter().filter(|rule| rule.rule == format!("!has(self.{name})")).count(), 1, "{}", later.path);
        }
    }
}
