//! The zstd frame of a block.

use std::sync::LazyLock;

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use super::BlockError;

/// zstd's level. What is in the frame is short and repeats itself: level 9 saves 2 bytes in a thousand of a block, and level 19
/// takes twice the time to save no more.
const LEVEL: i32 = 1;

/// What stands before the frame's content for the compressor: the texts of payloads as the text column has them, the usual
/// ones last. A raw content dictionary (RFC 8878, section 5) without an id.
#[rustfmt::skip]
pub const DICTIONARY: &[u8] = b"\
{\"break_found\":{\"computed\":\xFD,\"epoch\":\xFE,\"expected\":\xFD,\"first_bad\":\xFE,\"reason\":\"hmac\"},\
\"classifier\":\"rules-1\",\"decision\":\"verification_failed\",\"reason\":\"\",\"v\":\xFE}\xFF\
{\"classifier\":\"rules-1\",\"decision\":\"local\",\"reason\":\"\",\"request_id\":\xFB,\"sealed\":\xFC,\"v\":\xFE}\xFF\
{\"classifier\":\"rules-1\",\"decision\":\"escalate\",\"reason\":\"rule: question\",\"request_id\":\xFB,\"sealed\":\xFC,\"v\":\xFE}\xFF\
{\"answered_by\":\"local\",\"device_receipts\":\xFE,\"receipts\":\xFE,\"root\":\xFD,\"sealed\":\xFC,\"status\":\"refused\",\"substrate_receipts\":\xFE,\"v\":\xFE}\xFF\
{\"answered_by\":\"substrate\",\"device_receipts\":\xFE,\"receipts\":\xFE,\"root\":\xFD,\"sealed\":\xFC,\"status\":\"ok\",\"substrate_receipts\":\xFE,\"v\":\xFE}\xFF\
,{\"count\":\xFE,\"first\":\xFE,\"root\":\xFD},{\"count\":\xFE,\"first\":\xFE,\"root\":\xFD},{\"count\":\xFE,\"first\":\xFE,\"root\":\xFD}\
],\"completion_tokens\":\xFE,\"finish\":\"interrupted\",\"first_receipt_id\":null,\"last_receipt_id\":null,\
{\"blocks\":[{\"count\":\xFE,\"first\":\xFE,\"root\":\xFD}],\"completion_tokens\":\xFE,\"finish\":\"stop\",\"first\":\xFE,\
\"first_receipt_id\":\xFB,\"last_receipt_id\":\xFB,\"model\":\"\",\"prompt_tokens\":\xFE,\"receipts\":\xFE,\"request_id\":\xFB,\
\"root\":\xFD,\"sealed\":\xFC,\"status\":\"ok\",\"v\":\xFE}\xFF\
{\"experts\":\xFA,\"model\":{\"build_sha256\":\xFD,\"name\":\"\",\"weights_sha256\":\xFD},\"step\":\xFE,\"v\":\xFE}\xFF\
{\"commitment\":\xFD,\"step\":\xFE,\"v\":\xFE}\xFF\
{\"experts\":\xFA,\"loaded\":\xFA,\"step\":\xFE,\"v\":\xFE}\xFF\
{\"sealed\":\xFC,\"step\":\xFE,\"v\":\xFE}\xFF{\"experts\":\xFA,\"step\":\xFE,\"v\":\xFE}\xFF{\"sealed\":\xFC,\"step\":\xFE,\"v\":\xFE}\xFF";

static ENCODER: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

/// The frame of these bytes.
pub fn compress(bytes: &[u8]) -> Result<Vec<u8>, BlockError> {
    let failed = |error: std::io::Error| BlockError::Compress(error.to_string());
    let mut compressor = Compressor::with_prepared_dictionary(&ENCODER).map_err(failed)?;
    compressor.compress(bytes).map_err(failed)
}

/// The `len` bytes of a frame.
pub fn decompress(frame: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    // One frame and nothing behind it: more frames would be unpacked too, and skippable ones would hide bytes.
    if zstd::zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err("it is not exactly one zstd frame");
    }
    let unpacked = Decompressor::with_prepared_dictionary(&DECODER)
        .and_then(|mut decompressor| decompressor.decompress(frame, len));
    match unpacked {
        Ok(bytes) if bytes.len() == len => Ok(bytes),
        _ => Err("it does not unpack into the length that it names"),
    }
}
