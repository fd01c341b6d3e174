package android.content.res;

public class AssetFileDescriptor implements java.io.Closeable {
    public android.os.ParcelFileDescriptor getParcelFileDescriptor() { throw new RuntimeException(); }
    public long getStartOffset() { throw new RuntimeException(); }
    public long getLength() { throw new RuntimeException(); }
    @Override public void close() throws java.io.IOException { throw new RuntimeException(); }
}
