//! The contract, rule by rule: each test is named after the rule that it holds, and judges by what the far side executed.

mod audit;
mod bad_input;
mod decision;
mod http2;
mod keys;
mod life;
mod open;
mod policy;
mod sessions;

#[test]
fn every_code_has_its_page_and_no_page_is_without_its_code() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    for code in kybernis_core::reason::Code::ALL {
        let page = folder.join(format!("{code}.md"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        let row = code.row();
        assert!(text.contains(&format!("HTTP {}; `X-Kyb-Verdict: {}`", row.status, row.verdict)), "{code}: its page says another status");
    }
    for page in std::fs::read_dir(&folder).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        let code = name.strip_suffix(".md").unwrap();
        assert!(kybernis_core::reason::Code::parse(code).is_some(), "{name} is about no code");
    }
}

/// `cargo xtask codegen` runs this with `KYB_UPDATE` set, which writes what else is only compared.
#[test]
fn the_published_schemas_are_those_of_the_types() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
    for (name, schema) in kybernis_core::ksp::schemas() {
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = folder.join(name);
        if std::env::var_os("KYB_UPDATE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(published == text, "{} is not what the types say: run cargo xtask codegen", path.display());
    }
}
