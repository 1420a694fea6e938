//! The body of a block is what the object store keeps of it: its bytes, compressed and then encrypted as far as the volume
//! wants that.

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{Segments, buffer::segments_len};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{cipher::Cipher, codec::Compression, config::ChunkConfig, pool::PoolBuf};

/// Compressing no more bytes than this is not worth a change of threads.
const INLINE_BYTES: usize = 64 << 10;

/// How bodies of a volume are made.
#[derive(Clone, Debug)]
pub(crate) struct BodyForm {
    pub(crate) compression: Compression,
    pub(crate) cipher: Option<Arc<Cipher>>,
}

impl BodyForm {
    pub(crate) fn of(config: &ChunkConfig) -> Self {
        Self { compression: config.compression, cipher: config.cipher.clone() }
    }

    /// Whether a body is the bytes of the block, so that a part of it can be read alone.
    pub(crate) fn is_plain(&self) -> bool {
        self.compression.is_none() && self.cipher.is_none()
    }

    /// Whether work on a block of this size is too much for the thread that polls. With a key pair it always is.
    pub(crate) fn wants_pool(&self, plain_bytes: usize) -> bool {
        self.cipher.is_some() || plain_bytes > INLINE_BYTES
    }

    /// Returns the most memory that fetching a block takes, in bytes: each form of the block lies beside the next.
    pub(crate) fn fetch_bytes(&self, plain_bytes: usize) -> usize {
        let packed = self.compression.bound_bytes(plain_bytes);
        let compressed = if self.compression.is_none() { 0 } else { packed };
        let sealed = self.cipher.as_ref().map_or(0, |cipher| packed + cipher.overhead_bytes());
        plain_bytes + compressed + sealed
    }

    /// Makes the body of a block.
    ///
    /// # Errors
    /// Returns the sentence of a library. Input that fits in memory does not meet it.
    pub(crate) fn pack(&self, plain: Segments) -> Result<Segments, String> {
        let packed = match (&self.compression, &self.cipher) {
            (Compression::None, None) => return Ok(plain),
            // Encrypting is done in place, and these bytes belong to others too.
            (Compression::None, Some(_)) => copy(&plain),
            (codec, _) => codec.encode(&join(plain))?,
        };
        match &self.cipher {
            Some(cipher) => cipher.seal(packed),
            None => Ok(Segments::from_iter([Bytes::from_owner(packed)])),
        }
    }

    /// Takes the `plain_bytes` of a block out of its body.
    ///
    /// # Errors
    /// Says what does not fit: the body is damaged, or of another size. The body of a block that is not compressed may be
    /// longer than the key says; the rest is ignored.
    pub(crate) fn unpack(&self, body: Bytes, plain_bytes: usize) -> Result<Bytes, String> {
        let packed = match &self.cipher {
            Some(cipher) => {
                let opened = cipher.open(&body)?;
                drop(body);
                Bytes::from_owner(opened)
            }
            None => body,
        };
        if self.compression.is_none() {
            return match packed.len() >= plain_bytes {
                true => Ok(packed.slice(..plain_bytes)),
                false => Err(format!("{} bytes instead of {plain_bytes}", packed.len())),
            };
        }
        let mut plain = PoolBuf::stale(plain_bytes);
        self.compression.decode(&packed, &mut plain)?;
        Ok(Bytes::from_owner(plain))
    }
}

/// Makes bodies and takes them apart, in place when that is quickest, otherwise on the blocking pool. No more of it goes on
/// there at once than there are processors, for each takes a processor, and memory beside the budget. Clones share the
/// slots.
#[derive(Clone, Debug)]
pub(crate) struct Packer {
    form: BodyForm,
    slots: Arc<Semaphore>,
    handle: Handle,
}

impl Packer {
    pub(crate) fn new(form: BodyForm, handle: Handle) -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self { form, slots: Arc::new(Semaphore::new(processors)), handle }
    }

    /// See [`BodyForm::is_plain`].
    pub(crate) fn is_plain(&self) -> bool {
        self.form.is_plain()
    }

    /// See [`BodyForm::fetch_bytes`].
    pub(crate) fn fetch_bytes(&self, plain_bytes: usize) -> usize {
        self.form.fetch_bytes(plain_bytes)
    }

    /// See [`BodyForm::pack`].
    pub(crate) async fn pack(&self, plain: Segments) -> Result<Segments, String> {
        let form = self.form.clone();
        self.compute(segments_len(&plain), move || form.pack(plain)).await
    }

    /// See [`BodyForm::unpack`].
    pub(crate) async fn unpack(&self, body: Bytes, plain_bytes: usize) -> Result<Bytes, String> {
        let form = self.form.clone();
        self.compute(plain_bytes, move || form.unpack(body, plain_bytes)).await
    }

    async fn compute<T, F>(&self, plain_bytes: usize, work: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, String> + Send + 'static,
    {
        if !self.form.wants_pool(plain_bytes) {
            return work();
        }
        // The semaphore is never closed. The slot goes with the work, which a dropped future does not end.
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let with_slot = move || {
            let _slot = slot;
            work()
        };
        self.handle.spawn_blocking(with_slot).await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

/// Returns one piece of memory with all of `body`. A body of one piece is not copied.
pub(crate) fn join(body: Segments) -> Bytes {
    match <[Bytes; 1]>::try_from(body.into_vec()) {
        Ok([only]) => only,
        Err(parts) => Bytes::from_owner(copy(&parts)),
    }
}

/// Copies all of `body` into a buffer of its own.
pub(crate) fn copy(body: &[Bytes]) -> PoolBuf {
    let mut whole = PoolBuf::with_capacity(segments_len(body));
    body.iter().for_each(|part| whole.append(part));
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::tests::{cipher, sm2_cipher};

    fn forms() -> Vec<BodyForm> {
        let encrypted =
            [cipher("aes256gcm-rsa"), cipher("chacha20-rsa"), sm2_cipher("chacha20-rsa"), sm2_cipher("sm4gcm")];
        let ciphers: Vec<_> = std::iter::once(None).chain(encrypted.map(Some)).collect();
        let codecs = [Compression::None, Compression::Lz4, Compression::Zstd];
        let with =
            |cipher: &Option<Arc<Cipher>>| codecs.map(|compression| BodyForm { compression, cipher: cipher.clone() });
        ciphers.iter().flat_map(with).collect()
    }

    fn noise(len: usize) -> Bytes {
        (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>().into()
    }

    #[test]
    fn blocks_come_back_within_what_was_reserved() {
        for (form, len) in forms().into_iter().flat_map(|form| [1, 100, 300_000].map(|len| (form.clone(), len))) {
            let plain = noise(len);
            let parts: Segments = [plain.slice(..len / 3), plain.slice(len / 3..)].into_iter().collect();
            let body = join(form.pack(parts.clone()).expect("packs"));
            assert!(if form.is_plain() { body == plain } else { body != plain });
            assert_eq!(join(parts), plain, "the bytes of others are left alone");
            assert!(form.is_plain() || len + body.len() <= form.fetch_bytes(len), "{form:?}");
            assert_eq!(form.unpack(body.clone(), len).expect("unpacks"), plain);
            assert!(form.unpack(body, len + 1).is_err(), "{form:?}: too short");
        }
    }

    #[test]
    fn whoever_polls_is_never_given_a_private_key_operation() {
        for form in forms() {
            assert_eq!(form.wants_pool(1), form.cipher.is_some());
            assert!(form.wants_pool(INLINE_BYTES + 1));
        }
    }
}
