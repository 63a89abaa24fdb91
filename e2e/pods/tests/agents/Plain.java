import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.Proxy;
import java.net.URI;
import java.nio.charset.StandardCharsets;

/** Places an order with HttpURLConnection, told to use no proxy, and tries twice. */
public final class Plain {
    public static void main(String[] args) throws Exception {
        byte[] body = args[1].getBytes(StandardCharsets.UTF_8);
        for (int attempt = 0; attempt < 2; attempt++) {
            HttpURLConnection connection = (HttpURLConnection) URI.create(args[0]).toURL().openConnection(Proxy.NO_PROXY);
            connection.setRequestMethod("POST");
            connection.setRequestProperty("Content-Type", "application/json");
            connection.setRequestProperty("Authorization", "Bearer e2e");
            connection.setDoOutput(true);
            // Else it sends a POST again by itself when the connection breaks.
            connection.setFixedLengthStreamingMode(body.length);
            try {
                connection.getOutputStream().write(body);
                System.out.println(connection.getResponseCode());
            } catch (IOException error) {
                System.out.println(error);
            }
        }
    }
}
