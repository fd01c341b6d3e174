// Sound of the microphone in pieces of 40 ms, as 16-bit samples at the rate of the context.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(Math.round(sampleRate * 0.04));
    this.at = 0;
  }

  process(inputs) {
    const sound = inputs[0][0];
    if (sound) {
      for (const sample of sound) {
        this.piece[this.at++] = Math.max(-1, Math.min(1, sample)) * 32767;
        if (this.at === this.piece.length) {
          this.port.postMessage(this.piece.buffer, [this.piece.buffer]);
          this.piece = new Int16Array(Math.round(sampleRate * 0.04));
          this.at = 0;
        }
      }
    }
    return true;
  }
}
registerProcessor("recorder", Recorder);
