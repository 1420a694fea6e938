//! Keys in PKCS#8 that PBES2 protects by a passphrase are decrypted here, and those of its variant in GM/T 0091, which has
//! numbers of its own for the algorithms.

use aws_lc_rs::pbkdf2;
use pkcs8::{
    EncryptedPrivateKeyInfoRef, ObjectIdentifier,
    der::{
        Decode, Reader, SliceReader,
        asn1::{AnyRef, OctetStringRef},
    },
    pkcs5,
    spki::AlgorithmIdentifier,
};
use sm3::Sm3;
use sm4::Sm4;

use super::{
    error::{KeyError, damaged},
    legacy::{self, Decrypted},
};

type Named<'a> = AlgorithmIdentifier<AnyRef<'a>>;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const PBES2: ObjectIdentifier = oid("1.2.840.113549.1.5.13");
const PBES2_SM: ObjectIdentifier = oid("1.2.156.10197.6.4.1.5.2");
const PBKDF2: ObjectIdentifier = oid("1.2.840.113549.1.5.12");
const PBKDF2_SM: ObjectIdentifier = oid("1.2.156.10197.6.4.1.5.1");
const HMAC_SHA1: ObjectIdentifier = oid("1.2.840.113549.2.7");
const HMAC_SHA256: ObjectIdentifier = oid("1.2.840.113549.2.9");
const HMAC_SHA384: ObjectIdentifier = oid("1.2.840.113549.2.10");
const HMAC_SHA512: ObjectIdentifier = oid("1.2.840.113549.2.11");
const HMAC_SM3: ObjectIdentifier = oid("1.2.156.10197.1.401.2");
const SM4: ObjectIdentifier = oid("1.2.156.10197.1.104");
const SM4_CBC: ObjectIdentifier = oid("1.2.156.10197.1.104.2");
const AES128_CBC: ObjectIdentifier = oid("2.16.840.1.101.3.4.1.2");
const AES192_CBC: ObjectIdentifier = oid("2.16.840.1.101.3.4.1.22");
const AES256_CBC: ObjectIdentifier = oid("2.16.840.1.101.3.4.1.42");

/// Decrypts the content of a block `ENCRYPTED PRIVATE KEY`.
pub(super) fn decrypt(der: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, KeyError> {
    // What the library does not read has something of SM in it, or is not supported.
    let Ok(sealed) = EncryptedPrivateKeyInfoRef::from_der(der) else {
        return Sealed::from_der(der)?.decrypt(passphrase);
    };
    match sealed.decrypt(passphrase) {
        Ok(key) => Ok(key.as_bytes().to_vec()),
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) | pkcs8::Error::Asn1(_)) => {
            Err(KeyError::PassphraseWrong)
        }
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::NoPbes1CryptSupport)) => {
            Err(KeyError::Protection("PBES1".to_owned()))
        }
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::UnsupportedAlgorithm { oid })) => Err(unknown(oid)),
        Err(error) => Err(damaged(error)),
    }
}

fn unknown(oid: ObjectIdentifier) -> KeyError {
    KeyError::Protection(format!("the algorithm {oid}"))
}

/// What a key is made with from a passphrase.
struct Derivation<'a> {
    salt: &'a [u8],
    rounds: u32,
    digest: Digest,
}

enum Digest {
    Common(pbkdf2::Algorithm),
    Sm3,
}

/// A protected key in its parts.
struct Sealed<'a> {
    derivation: Derivation<'a>,
    cipher: ObjectIdentifier,
    iv: &'a [u8],
    content: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn from_der(der: &'a [u8]) -> Result<Self, KeyError> {
        let (scheme, content) = document(der).map_err(damaged)?;
        if ![PBES2, PBES2_SM].contains(&scheme.oid) {
            return Err(unknown(scheme.oid));
        }
        let [derivation, cipher] = pair(parameters(&scheme)?).map_err(damaged)?;
        let derivation = Derivation::of(&derivation)?;
        if ![SM4, SM4_CBC, AES128_CBC, AES192_CBC, AES256_CBC].contains(&cipher.oid) {
            return Err(unknown(cipher.oid));
        }
        // The name SM4 alone is that of this mode only if there is an IV.
        let iv = cipher.parameters.ok_or_else(|| unknown(cipher.oid))?;
        let iv = iv.decode_as::<&OctetStringRef>().map_err(damaged)?.as_bytes();
        Ok(Self { derivation, cipher: cipher.oid, iv, content })
    }

    fn decrypt(&self, passphrase: &[u8]) -> Result<Vec<u8>, KeyError> {
        let Self { cipher, iv, content, .. } = *self;
        let key = |len: usize| self.derivation.key(passphrase, len);
        let plain: Option<Decrypted> = match cipher {
            AES128_CBC => legacy::run::<aes::Aes128>(&key(16)?, iv, content),
            AES192_CBC => legacy::run::<aes::Aes192>(&key(24)?, iv, content),
            AES256_CBC => legacy::run::<aes::Aes256>(&key(32)?, iv, content),
            _ => legacy::run::<Sm4>(&key(16)?, iv, content),
        };
        plain.ok_or_else(|| damaged("the length of the IV is wrong"))?
    }
}

impl<'a> Derivation<'a> {
    fn of(named: &Named<'a>) -> Result<Self, KeyError> {
        if ![PBKDF2, PBKDF2_SM].contains(&named.oid) {
            return Err(unknown(named.oid));
        }
        let (salt, rounds, digest) = pbkdf2_parameters(parameters(named)?).map_err(damaged)?;
        let default = if named.oid == PBKDF2 { HMAC_SHA1 } else { HMAC_SM3 };
        let digest = match digest.unwrap_or(default) {
            HMAC_SHA1 => Digest::Common(pbkdf2::PBKDF2_HMAC_SHA1),
            HMAC_SHA256 => Digest::Common(pbkdf2::PBKDF2_HMAC_SHA256),
            HMAC_SHA384 => Digest::Common(pbkdf2::PBKDF2_HMAC_SHA384),
            HMAC_SHA512 => Digest::Common(pbkdf2::PBKDF2_HMAC_SHA512),
            HMAC_SM3 => Digest::Sm3,
            other => return Err(unknown(other)),
        };
        Ok(Self { salt, rounds, digest })
    }

    fn key(&self, passphrase: &[u8], len: usize) -> Result<Vec<u8>, KeyError> {
        let rounds = std::num::NonZeroU32::new(self.rounds).ok_or_else(|| damaged("it has no rounds"))?;
        let mut key = vec![0; len];
        match self.digest {
            Digest::Common(algorithm) => pbkdf2::derive(algorithm, rounds, self.salt, passphrase, &mut key),
            Digest::Sm3 => ::pbkdf2::pbkdf2_hmac::<Sm3>(passphrase, self.salt, self.rounds, &mut key),
        }
        Ok(key)
    }
}

/// How a document says it is protected, and what is.
fn document(der: &[u8]) -> pkcs8::der::Result<(Named<'_>, &[u8])> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|document| {
        let scheme = Named::decode(document)?;
        Ok((scheme, <&OctetStringRef>::decode(document)?.as_bytes()))
    })
}

/// What stands in the parameters of an algorithm.
fn parameters<'a>(named: &Named<'a>) -> Result<SliceReader<'a>, KeyError> {
    let any = named.parameters.ok_or_else(|| damaged(format!("the algorithm {} has no parameters", named.oid)))?;
    SliceReader::new(any.value()).map_err(damaged)
}

/// The two algorithms of PBES2.
fn pair<'a>(mut reader: SliceReader<'a>) -> pkcs8::der::Result<[Named<'a>; 2]> {
    Ok([Named::decode(&mut reader)?, Named::decode(&mut reader)?])
}

/// Salt, rounds and digest of PBKDF2. The length of the key, which may stand there too, goes by the cipher.
fn pbkdf2_parameters(mut reader: SliceReader<'_>) -> pkcs8::der::Result<(&[u8], u32, Option<ObjectIdentifier>)> {
    let salt = <&OctetStringRef>::decode(&mut reader)?.as_bytes();
    let rounds = u32::decode(&mut reader)?;
    Option::<u16>::decode(&mut reader)?;
    let digest = Option::<Named<'_>>::decode(&mut reader)?;
    Ok((salt, rounds, digest.map(|named| named.oid)))
}
