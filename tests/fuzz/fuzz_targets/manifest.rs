#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| registry_image_fuzz::run("manifest", input));
