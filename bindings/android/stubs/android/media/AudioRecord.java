package android.media;

public class AudioRecord {
    public static final int STATE_INITIALIZED = 1, READ_BLOCKING = 0;
    public AudioRecord(int source, int rate, int channels, int encoding, int bytes) { throw new RuntimeException(); }
    public static int getMinBufferSize(int rate, int channels, int encoding) { throw new RuntimeException(); }
    public int getState() { throw new RuntimeException(); }
    public void startRecording() { throw new RuntimeException(); }
    public int read(float[] samples, int offset, int size, int mode) { throw new RuntimeException(); }
    public void release() { throw new RuntimeException(); }
}
