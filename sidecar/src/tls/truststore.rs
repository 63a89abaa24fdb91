//! The bundle as Java reads it: a Java KeyStore (JKS) of certificates alone.
//!
//! Every JDK reads this form since 1.2, without a password too, and it is a header, entries and a digest. PKCS#12 would need
//! bags, encryption and Oracle's own attribute for the same.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{Error, PemObject as _};

/// A store takes a password even where nothing is secret: this is what every JDK's own has.
pub(crate) const PASSWORD: &str = "changeit";

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// An entry that is a certificate without a key.
const TRUSTED_CERTIFICATE: u32 = 2;
/// Part of the form: what Sun's engineers hashed between password and content.
const SALT: &[u8] = b"Mighty Aphrodite";

/// The certificates of a PEM file as a JKS file.
pub(crate) fn from_pem(pem: &[u8]) -> Result<Vec<u8>, Error> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    Ok(encode(&certificates))
}

fn encode(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    let mut store = Vec::new();
    let number = |store: &mut Vec<u8>, number: u32| store.extend(number.to_be_bytes());
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    number(&mut store, MAGIC);
    number(&mut store, VERSION);
    number(&mut store, u32::try_from(certificates.len()).unwrap_or(u32::MAX));
    for (at, certificate) in certificates.iter().enumerate() {
        number(&mut store, TRUSTED_CERTIFICATE);
        text(&mut store, &format!("kybernis-{at}"));
        // When the entry was made: nobody asks.
        store.extend(0_u64.to_be_bytes());
        text(&mut store, "X.509");
        number(&mut store, length(certificate));
        store.extend(certificate.as_ref());
    }
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for part in [password.as_slice(), SALT, &store] {
        digest.update(part);
    }
    store.extend(digest.finish().as_ref());
    store
}

/// ASCII with its length before it, as Java's `writeUTF` has it.
fn text(store: &mut Vec<u8>, text: &str) {
    store.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    store.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_tagged_alias_date_type_and_certificate() {
        let store = encode(&[CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])]);
        let (body, digest) = store.split_at(store.len() - 20);
        let mut expect = vec![0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 10];
        expect.extend(b"kybernis-0");
        expect.extend([0; 8]);
        expect.extend([0, 5]);
        expect.extend(b"X.509");
        expect.extend([0, 0, 0, 5, 0x30, 0x03, 1, 2, 3]);
        assert_eq!(body, expect);
        assert_eq!(digest.len(), 20);
    }

    #[test]
    fn what_is_no_pem_is_refused() {
        let broken = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(from_pem(broken).is_err());
        assert_eq!(from_pem(b"").unwrap().len(), 12 + 20);
    }

    #[test]
    fn java_reads_it() {
        let Ok(version) = std::process::Command::new("keytool").arg("-version").output() else {
            eprintln!("no keytool here: skipped");
            return;
        };
        drop(version);
        let folder = tempfile::tempdir().unwrap();
        let pem = rcgen::generate_simple_self_signed(vec!["far.example".to_owned()]).unwrap().cert.pem();
        let file = folder.path().join("trust.jks");
        std::fs::write(&file, from_pem(pem.as_bytes()).unwrap()).unwrap();
        let list = std::process::Command::new("keytool").args(["-list", "-storepass", PASSWORD, "-keystore"]).arg(&file).output();
        let said = String::from_utf8(list.unwrap().stdout).unwrap();
        assert!(said.contains("kybernis-0") && said.contains("trustedCertEntry"), "{said}");
    }
}
