package android.content;

public abstract class Context {
    public Context getApplicationContext() { throw new RuntimeException(); }
    public android.content.res.AssetManager getAssets() { throw new RuntimeException(); }
    public java.io.File getFilesDir() { throw new RuntimeException(); }
    public java.io.File getExternalFilesDir(String type) { throw new RuntimeException(); }
    public int checkSelfPermission(String permission) { throw new RuntimeException(); }
    public void registerComponentCallbacks(ComponentCallbacks callbacks) { throw new RuntimeException(); }
    public void unregisterComponentCallbacks(ComponentCallbacks callbacks) { throw new RuntimeException(); }
}
