package android.widget;

public class ScrollView extends android.view.View {
    public ScrollView(android.content.Context context) { super(context); }
    public void addView(android.view.View view) { throw new RuntimeException(); }
}
