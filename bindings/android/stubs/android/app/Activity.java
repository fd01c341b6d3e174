package android.app;

public class Activity extends android.content.Context {
    protected void onCreate(android.os.Bundle state) { throw new RuntimeException(); }
    protected void onStart() { throw new RuntimeException(); }
    protected void onStop() { throw new RuntimeException(); }
    protected void onDestroy() { throw new RuntimeException(); }
    public void setContentView(android.view.View view) { throw new RuntimeException(); }
    public final void requestPermissions(String[] permissions, int code) { throw new RuntimeException(); }
    public void onRequestPermissionsResult(int code, String[] permissions, int[] results) { throw new RuntimeException(); }
}
